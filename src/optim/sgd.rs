//! Stochastic gradient descent with momentum, PyTorch's form (no dampening).
//!
//! `g += weight_decay p`, `m = momentum m + g` (so `m = g` in the first step), `p -= lr (nesterov ? g + momentum m : m)`.
//! Without momentum `p -= lr g`.

use super::{PIECE, check};
use crate::Result;
use crate::device::Launch;
use crate::ops::vectorize::vectorize;
use crate::tensor::{DType, Tensor};
use rayon::prelude::*;

/// Momentum buffer and settings.
pub struct Sgd {
    momentum_buffer: Tensor,
    settings: Settings,
}

/// Kernel parameters, mirrored in `kernels/optim.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Settings {
    lr: f32,
    momentum: f32,
    weight_decay: f32,
    nesterov: i32,
    n: i32,
}

impl Sgd {
    /// For a flat buffer like `params` (F32, length and device count). `momentum` in `0..1`; `weight_decay >= 0`;
    /// Nesterov needs momentum. Errors otherwise.
    pub fn new(params: &Tensor, momentum: f32, weight_decay: f32, nesterov: bool) -> Result<Self> {
        crate::ensure_op!((0.0..1.0).contains(&momentum), "sgd", "momentum must be in 0..1, got {momentum}");
        crate::ensure_op!(weight_decay >= 0.0, "sgd", "weight decay must be >= 0, got {weight_decay}");
        crate::ensure_op!(momentum > 0.0 || !nesterov, "sgd", "Nesterov's step needs a momentum > 0");
        crate::ensure_op!(params.len() <= 1 << 30, "sgd", "{} parameters are more than 2^30", params.len());
        let momentum_buffer = Tensor::zeros(&params.device(), [params.len()], DType::F32)?;
        let n = params.len() as i32;
        Ok(Self {
            momentum_buffer,
            settings: Settings { lr: 0.0, momentum, weight_decay, nesterov: nesterov.into(), n },
        })
    }

    /// One step in place. `params` and `grads`: F32, the length given to [`Sgd::new`]; `lr >= 0`.
    pub fn step(&mut self, params: &mut Tensor, grads: &Tensor, lr: f32) -> Result<()> {
        check("sgd", params, grads, &self.momentum_buffer, lr)?;
        let s = Settings { lr, ..self.settings };
        if let Some(gpu) = params.gpu() {
            return Launch::over("optim_sgd_f32", params.len(), 256)
                .ptr(params.address())
                .ptr(grads.address())
                .ptr(self.momentum_buffer.address())
                .val(s)
                .run(gpu);
        }
        let p = params.host_mut::<f32>().par_chunks_mut(PIECE);
        let m = self.momentum_buffer.host_mut::<f32>().par_chunks_mut(PIECE);
        p.zip(m).zip(grads.host::<f32>().par_chunks(PIECE)).for_each(|((p, m), g)| {
            vectorize(
                #[inline(always)]
                || {
                    for ((p, m), g) in p.iter_mut().zip(m).zip(g) {
                        let g = g + s.weight_decay * *p;
                        *m = s.momentum * *m + g;
                        *p -= s.lr * if s.nesterov != 0 { g + s.momentum * *m } else { *m };
                    }
                },
            );
        });
        Ok(())
    }

    /// What a checkpoint must hold, by name.
    pub fn state(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("momentum", &self.momentum_buffer)]
    }
    /// The same, for loading (`copy_from` or `write`).
    pub fn state_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        vec![("momentum", &mut self.momentum_buffer)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn steps_follow_the_written_formula_on_both_devices() {
        for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            for (momentum, decay, nesterov) in
                [(0.0, 0.0, false), (0.9, 0.0, false), (0.9, 1e-2, true), (0.5, 0.1, false)]
            {
                let n = 1003;
                let value = |i: usize, step: usize| ((i * 31 + step * 17) % 101) as f64 / 50.0 - 1.0;
                let mut p: Vec<f64> = (0..n).map(|i| value(i, 99)).collect();
                let host: Vec<f32> = p.iter().map(|&v| v as f32).collect();
                let mut params = Tensor::from_slice(&device, [n], &host).unwrap();
                let mut sgd = Sgd::new(&params, momentum as f32, decay as f32, nesterov).unwrap();
                let mut m: Option<Vec<f64>> = None;
                for step in 0..5 {
                    let g: Vec<f32> = (0..n).map(|i| value(i, step) as f32).collect();
                    let lr = 0.1 / (step + 1) as f64;
                    sgd.step(&mut params, &Tensor::from_slice(&device, [n], &g).unwrap(), lr as f32).unwrap();
                    let g: Vec<f64> = (0..n).map(|i| value(i, step) + decay * p[i]).collect();
                    // PyTorch's first step takes the gradient as the buffer.
                    let buffer = match m {
                        None => g.clone(),
                        Some(m) => m.iter().zip(&g).map(|(m, g)| momentum * m + g).collect(),
                    };
                    for i in 0..n {
                        p[i] -= lr * if nesterov { g[i] + momentum * buffer[i] } else { buffer[i] };
                    }
                    m = Some(buffer);
                }
                for (got, want) in params.to_f64().unwrap().iter().zip(&p) {
                    assert!((got - want).abs() < 2e-6, "{device:?}: {got} {want}");
                }
            }
        }
    }

    #[test]
    fn bad_settings_and_sizes_are_errors() {
        let d = Device::cpu();
        let mut p = Tensor::zeros(&d, [3], DType::F32).unwrap();
        assert!(Sgd::new(&p, 1.0, 0.0, false).is_err());
        assert!(Sgd::new(&p, 0.0, 0.0, true).is_err());
        let mut sgd = Sgd::new(&p, 0.9, 0.0, true).unwrap();
        let short = Tensor::zeros(&d, [2], DType::F32).unwrap();
        assert!(sgd.step(&mut p, &short, 0.1).unwrap_err().to_string().contains("made for 3"));
        let g = p.duplicate().unwrap();
        assert!(sgd.step(&mut p, &g, f32::NAN).is_err());
    }
}
