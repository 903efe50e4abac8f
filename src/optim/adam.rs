//! Adam (Kingma, Ba 2015), PyTorch's form: weight decay is added to the gradient, epsilon outside the root.
//!
//! `g += weight_decay p`, `m += (1 - beta1) (g - m)`, `v = beta2 v + (1 - beta2) g^2`,
//! `p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)`.
//!
//! The step number `t` lives on the device, so that a recorded launch sequence stays right when it is replayed.

use super::{PIECE, Rate, check};
use crate::Result;
use crate::device::Launch;
use crate::ops::vectorize::vectorize;
use crate::tensor::{DType, Tensor};
use rayon::prelude::*;

/// Moments, step number and settings.
pub struct Adam {
    m: Tensor,
    v: Tensor,
    /// I32 `[1]`.
    step: Tensor,
    settings: Settings,
}

/// Kernel parameters, mirrored in `kernels/optim.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Settings {
    beta1: f64,
    beta2: f64,
    lr: f32,
    epsilon: f32,
    weight_decay: f32,
    n: i32,
}

impl Adam {
    /// For a flat buffer like `params` (F32, length and device count), without weight decay. Betas in `0..1` (0.9, 0.999
    /// usual; GDFQ's generator 0.5, 0.999), `epsilon > 0` (1e-8 usual). Errors otherwise.
    pub fn new(params: &Tensor, beta1: f32, beta2: f32, epsilon: f32) -> Result<Self> {
        let good = (0.0..1.0).contains(&beta1) && (0.0..1.0).contains(&beta2);
        crate::ensure_op!(good, "adam", "betas must be in 0..1, got {beta1} and {beta2}");
        crate::ensure_op!(epsilon > 0.0, "adam", "epsilon must be > 0, got {epsilon}");
        crate::ensure_op!(params.len() <= 1 << 30, "adam", "{} parameters are more than 2^30", params.len());
        let device = params.device();
        let zeros = |n: usize, dtype| Tensor::zeros(&device, [n], dtype);
        // Through the decimal text: 0.999 as f32 is 0.99900001, and 1 - beta2 would be off by 1e-5 of itself.
        let decimal = |beta: f32| beta.to_string().parse::<f64>().expect("a printed float parses");
        Ok(Self {
            m: zeros(params.len(), DType::F32)?,
            v: zeros(params.len(), DType::F32)?,
            step: zeros(1, DType::I32)?,
            settings: Settings {
                beta1: decimal(beta1),
                beta2: decimal(beta2),
                lr: 0.0,
                epsilon,
                weight_decay: 0.0,
                n: params.len() as i32,
            },
        })
    }

    /// The same with `weight_decay` times the parameter added to its gradient.
    pub fn weight_decay(mut self, weight_decay: f32) -> Self {
        self.settings.weight_decay = weight_decay;
        self
    }

    /// Back to the state before the first step, in place.
    pub fn restart(&mut self) -> Result<()> {
        self.state_mut().into_iter().try_for_each(|(_, t)| t.fill_zero())
    }

    /// One step in place. `params` and `grads`: F32, the length given to [`Adam::new`]; `lr >= 0`.
    pub fn step(&mut self, params: &mut Tensor, grads: &Tensor, lr: impl Into<Rate>) -> Result<()> {
        let lr = lr.into();
        check("adam", params, grads, &self.m, &lr)?;
        if let Some(gpu) = params.gpu() {
            let (lr, stored) = lr.on_device(1.0);
            return Launch::over_quads("optim_adam_f32", params.len(), 256)
                .ptr(params.address())
                .ptr(grads.address())
                .ptr(self.m.address())
                .ptr(self.v.address())
                .ptr(self.step.address())
                .ptr(stored)
                .ptr(gpu.arrivals(1)?)
                .val(Settings { lr, ..self.settings })
                .run(gpu);
        }
        let s = self.settings;
        let lr = lr.on_host(1.0);
        let t = &mut self.step.host_mut::<i32>()[0];
        *t += 1;
        let first = (1.0 / (1.0 - s.beta1.powi(*t))) as f32;
        let second = (1.0 / (1.0 - s.beta2.powi(*t)).sqrt()) as f32;
        let (keep, gain1, gain2) = (s.beta2 as f32, (1.0 - s.beta1) as f32, (1.0 - s.beta2) as f32);
        let rate = lr * first;
        let p = params.host_mut::<f32>().par_chunks_mut(PIECE);
        let m = self.m.host_mut::<f32>().par_chunks_mut(PIECE);
        let v = self.v.host_mut::<f32>().par_chunks_mut(PIECE);
        p.zip(m).zip(v).zip(grads.host::<f32>().par_chunks(PIECE)).for_each(|(((p, m), v), g)| {
            vectorize(
                #[inline(always)]
                || {
                    for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
                        let g = g + s.weight_decay * *p;
                        *m += gain1 * (g - *m);
                        *v = keep * *v + gain2 * g * g;
                        *p -= rate * *m / (v.sqrt() * second + s.epsilon);
                    }
                },
            );
        });
        Ok(())
    }

    /// What a checkpoint must hold, by name: `m`, `v` (F32) and `step` (I32, one element).
    pub fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("m", &self.m), ("v", &self.v), ("step", &self.step)]
    }
    /// The same, for loading (`copy_from` or `write`).
    pub fn state_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        vec![("m", &mut self.m), ("v", &mut self.v), ("step", &mut self.step)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn steps_follow_the_written_formula_on_both_devices() {
        for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            for (beta1, decay) in [(0.9, 0.0), (0.5, 0.01)] {
                let (n, beta2, epsilon) = (517, 0.999, 1e-8);
                let value = |i: usize, step: usize| ((i * 31 + step * 17) % 101) as f64 / 50.0 - 1.0;
                let mut p: Vec<f64> = (0..n).map(|i| value(i, 99)).collect();
                let host: Vec<f32> = p.iter().map(|&v| v as f32).collect();
                let mut params = Tensor::from_slice(&device, [n], &host).unwrap();
                let mut adam = Adam::new(&params, beta1 as f32, beta2 as f32, epsilon as f32).unwrap();
                adam = adam.weight_decay(decay as f32);
                let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
                for step in 1..=6 {
                    let g: Vec<f32> = (0..n).map(|i| value(i, step) as f32).collect();
                    adam.step(&mut params, &Tensor::from_slice(&device, [n], &g).unwrap(), 1e-2).unwrap();
                    for i in 0..n {
                        let g = value(i, step) + decay * p[i];
                        m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                        v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                        let (m, v) = (m[i] / (1.0 - beta1.powi(step as i32)), v[i] / (1.0 - beta2.powi(step as i32)));
                        p[i] -= 1e-2 * m / (v.sqrt() + epsilon);
                    }
                }
                for (i, (got, want)) in params.to_f64().unwrap().iter().zip(&p).enumerate() {
                    // Where gradients nearly vanish the quotient m / sqrt(v) is badly conditioned.
                    assert!((got - want).abs() < 2e-5, "{device:?} {i}: {got} {want}");
                }
                assert_eq!(adam.state()[2].1.to_vec::<i32>().unwrap(), [6]);
            }
        }
    }

    /// The state alone carries a run on, bit for bit.
    #[test]
    fn state_resumes() {
        let d = Device::cpu();
        let g = Tensor::from_slice(&d, [3], &[0.3f32, -0.2, 1.0]).unwrap();
        let mut p = Tensor::from_slice(&d, [3], &[1f32, 2.0, 3.0]).unwrap();
        let mut adam = Adam::new(&p, 0.9, 0.999, 1e-8).unwrap();
        adam.step(&mut p, &g, 0.1).unwrap();
        let mut q = p.duplicate().unwrap();
        let mut resumed = Adam::new(&q, 0.9, 0.999, 1e-8).unwrap();
        for ((_, to), (_, from)) in resumed.state_mut().into_iter().zip(adam.state()) {
            to.copy_from(from).unwrap();
        }
        adam.step(&mut p, &g, 0.1).unwrap();
        resumed.step(&mut q, &g, 0.1).unwrap();
        assert_eq!(p.to_vec::<f32>().unwrap(), q.to_vec::<f32>().unwrap());
    }
}
