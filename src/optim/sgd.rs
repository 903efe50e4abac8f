//! Stochastic gradient descent with momentum, PyTorch's form (no dampening).
//!
//! `g += weight_decay p`, `m = momentum m + g` (so `m = g` in the first step), `p -= lr (nesterov ? g + momentum m : m)`.
//! Without momentum `p -= lr g`.

use super::{PIECE, Rate, check};
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
    pub fn step(&mut self, params: &mut Tensor, grads: &Tensor, lr: impl Into<Rate>) -> Result<()> {
        self.step_scaled(params, grads, lr, &[])
    }

    /// [`Sgd::step`] with a factor on the rate of some parts: `(start, length, factor)` in elements, ascending and apart.
    /// Parts not named have factor 1. Errors if they overlap or reach beyond the end, or a factor is negative.
    pub fn step_scaled(
        &mut self,
        params: &mut Tensor,
        grads: &Tensor,
        lr: impl Into<Rate>,
        parts: &[(usize, usize, f32)],
    ) -> Result<()> {
        let lr = lr.into();
        check("sgd", params, grads, &self.momentum_buffer, &lr)?;
        let mut from = 0;
        let mut all = Vec::with_capacity(2 * parts.len() + 1);
        for &(start, length, factor) in parts {
            let fits = start >= from && start + length <= params.len() && factor >= 0.0 && factor.is_finite();
            crate::ensure_op!(
                fits,
                "sgd",
                "part {start} + {length}, factor {factor}, of {} from {from} on",
                params.len()
            );
            all.extend([(from, start - from, 1.0), (start, length, factor)]);
            from = start + length;
        }
        all.push((from, params.len() - from, 1.0));
        for (start, length, factor) in all.into_iter().filter(|part| part.1 > 0) {
            self.step_part(params, grads, start, length, (&lr, factor))?;
        }
        Ok(())
    }

    fn step_part(
        &mut self,
        params: &Tensor,
        grads: &Tensor,
        start: usize,
        length: usize,
        (rate, factor): (&Rate, f32),
    ) -> Result<()> {
        let mut params = params.view(start, [length])?;
        let grads = grads.view(start, [length])?;
        let mut buffer = self.momentum_buffer.view(start, [length])?;
        let s = Settings { n: length as i32, ..self.settings };
        if let Some(gpu) = params.gpu() {
            let (lr, stored) = rate.on_device(factor);
            let s = Settings { lr, ..s };
            return Launch::over_quads("optim_sgd_f32", length, 256)
                .ptr(params.address())
                .ptr(grads.address())
                .ptr(buffer.address())
                .ptr(stored)
                .val(s)
                .run(gpu);
        }
        let s = Settings { lr: rate.on_host(factor), ..s };
        let p = params.host_mut::<f32>().par_chunks_mut(PIECE);
        let m = buffer.host_mut::<f32>().par_chunks_mut(PIECE);
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

    /// What [`Sgd::step`] would subtract from `params`, `lr` included, with nothing changed.
    pub fn next_step(&self, params: &Tensor, grads: &Tensor, lr: f32) -> Result<Tensor> {
        check("sgd", params, grads, &self.momentum_buffer, &lr.into())?;
        let mut step = Tensor::empty_like(params, params.shape())?;
        let s = Settings { lr, ..self.settings };
        if let Some(gpu) = params.gpu() {
            Launch::over("optim_sgd_next_f32", params.len(), 256)
                .ptr(params.address())
                .ptr(grads.address())
                .ptr(self.momentum_buffer.address())
                .ptr(step.address())
                .val(s)
                .run(gpu)?;
            return Ok(step);
        }
        let state = params.host::<f32>().iter().zip(self.momentum_buffer.host::<f32>());
        for (out, ((p, m), g)) in step.host_mut::<f32>().iter_mut().zip(state.zip(grads.host::<f32>())) {
            let g = g + s.weight_decay * p;
            let m = s.momentum * m + g;
            *out = s.lr * if s.nesterov != 0 { g + s.momentum * m } else { m };
        }
        Ok(step)
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
    fn parts_have_rates_of_their_own_and_the_next_step_is_told_before() {
        for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            let n = 37;
            let g: Vec<f32> = (0..n).map(|i| (i % 7) as f32 - 3.0).collect();
            let grads = Tensor::from_slice(&device, [n], &g).unwrap();
            let mut params = Tensor::zeros(&device, [n], DType::F32).unwrap();
            let mut sgd = Sgd::new(&params, 0.9, 0.0, true).unwrap();
            sgd.step(&mut params, &grads, 0.1).unwrap();
            let before = params.to_f64().unwrap();
            let told = sgd.next_step(&params, &grads, 0.1).unwrap().to_f64().unwrap();
            let parts = [(3, 10, 5.0), (20, 1, 0.0)];
            sgd.step_scaled(&mut params, &grads, 0.1, &parts).unwrap();
            for (i, now) in params.to_f64().unwrap().into_iter().enumerate() {
                let factor = parts.iter().find(|p| (p.0..p.0 + p.1).contains(&i)).map_or(1.0, |p| f64::from(p.2));
                assert!((before[i] - factor * told[i] - now).abs() < 1e-5, "{device:?} {i}");
            }
            assert!(sgd.step_scaled(&mut params, &grads, 0.1, &[(0, 5, 1.0), (4, 2, 1.0)]).is_err());
            assert!(sgd.step_scaled(&mut params, &grads, 0.1, &[(30, 8, 1.0)]).is_err());
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
