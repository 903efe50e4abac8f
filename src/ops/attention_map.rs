//! Attention maps of activations, L2-normalised per sample (Zagoruyko, Komodakis 2017; the channel form as in HAST, SynQ).
//!
//! `q = sum_c |x|^p` over the pixels (spatial) or `q = sum_hw |x|^p` over the channels, `a = q / |q|`. Backward: with `g`
//! the gradient of `a`, `dq = (g - a (a . g)) / |q|` and `dx = p |x|^(p-1) sign(x) dq`. Where `|q| <= 1e-12` the map is
//! `q / 1e-12` and the gradient 0. `q` and `a` do not depend on a scale of `q`, so sums serve where others take means.

use super::case::{Case, Fill, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Shape, Tensor};
use rayon::prelude::*;

/// What the map is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// Pixels: `[n, h w]`.
    Spatial,
    /// Channels: `[n, c]`.
    Channel,
}

const OP: &str = "attention_map";
const EPS: f64 = 1e-12;
/// Pixels that one block of the channel sums takes on a GPU.
const SPAN: usize = 64;

/// Kernel parameters, mirrored in `kernels/attention_map.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    pub n: i32,
    pub pixels: i32,
    pub c: i32,
    /// 0 spatial, 1 channel.
    pub channel: i32,
    pub p: f32,
}

impl Params {
    /// Elements of one sample's map.
    fn map(self) -> usize {
        if self.channel == 1 { self.c as usize } else { self.pixels as usize }
    }
}

/// The map of `x[n, h, w, c]` (F32) with exponent `p >= 1`: `[n, h w]` or `[n, c]`, each row of L2 norm 1. Saves `x`, the
/// map and the norms. Errors on another rank, an empty tensor or `p < 1`.
pub fn attention_map(tape: &mut Tape, x: &Var, kind: AttentionKind, p: f32) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    crate::ensure_op!(p >= 1.0 && p.is_finite(), OP, "the exponent must be >= 1, got {p}");
    let size = n * h * w * c;
    crate::ensure_op!((1..=1 << 30).contains(&size), OP, "cannot take a map of {}", x.shape());
    let channel = i32::from(kind == AttentionKind::Channel);
    let params = Params { n: n as i32, pixels: (h * w) as i32, c: c as i32, channel, p };
    let mut a = Tensor::empty_like(&x.value, [n, params.map()])?;
    let mut norms = Tensor::empty_like(&x.value, [n])?;
    if x.value.gpu().is_some() {
        gpu_fwd(&x.value, &a, &norms, params)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            cpu_fwd::<T>(x.value.host(), a.host_mut(), norms.host_mut(), params);
            Ok(())
        })?;
    }
    Ok(tape.record_one(AttentionOp { x: x.value.clone(), a: a.clone(), norms, params }, &[x], a))
}

/// `|x|^p`.
#[inline(always)]
fn power<T: Real>(x: T, p: f32) -> T {
    if p == 2.0 { x * x } else if p == 1.0 { x.abs() } else { x.abs().powf(T::of(p.into())) }
}

/// Its derivative.
#[inline(always)]
pub(super) fn slope<T: Real>(x: T, p: f32) -> T {
    if p == 2.0 {
        x + x
    } else if x == T::zero() {
        T::zero()
    } else {
        let sign = if x > T::zero() { T::one() } else { -T::one() };
        if p == 1.0 { sign } else { sign * T::of(p.into()) * x.abs().powf(T::of(f64::from(p) - 1.0)) }
    }
}

/// `q[pixel] = sum_c |x|^p` of `x[pixels c]`, sixteen partial sums.
#[inline(always)]
pub(super) fn pixel_sums<T: Real>(x: &[T], q: &mut [T], c: usize, p: f32) {
    for (q, x) in q.iter_mut().zip(x.chunks_exact(c)) {
        const LANES: usize = 16;
        let mut sums = [T::zero(); LANES];
        let chunks = x.chunks_exact(LANES);
        for (s, x) in sums.iter_mut().zip(chunks.remainder()) {
            *s = power(*x, p);
        }
        for x in chunks {
            for i in 0..LANES {
                sums[i] += power(x[i], p);
            }
        }
        *q = sums.iter().copied().sum();
    }
}

fn cpu_fwd<T: Real>(x: &[T], a: &mut [T], norms: &mut [T], s: Params) {
    let (sample, c) = (s.pixels as usize * s.c as usize, s.c as usize);
    x.par_chunks(sample).zip(a.par_chunks_mut(s.map())).zip(norms).for_each(|((x, a), norm)| {
        super::vectorize::vectorize(
            #[inline(always)]
            || {
                if s.channel == 1 {
                    a.fill(T::zero());
                    // Few partial sums of 64 pixels each, so that long sums keep their precision.
                    let mut part = vec![T::zero(); c];
                    for pixels in x.chunks(SPAN * c) {
                        part.fill(T::zero());
                        for x in pixels.chunks_exact(c) {
                            part.iter_mut().zip(x).for_each(|(q, x)| *q += power(*x, s.p));
                        }
                        a.iter_mut().zip(&part).for_each(|(a, q)| *a += *q);
                    }
                } else {
                    pixel_sums(x, a, c, s.p);
                }
            },
        );
        let length = a.iter().map(|q| q.f64() * q.f64()).sum::<f64>().sqrt();
        *norm = T::of(length);
        let inverse = T::of(1.0 / length.max(EPS));
        a.iter_mut().for_each(|a| *a = *a * inverse);
    });
}

fn cpu_bwd<T: Real>(x: &[T], a: &[T], norms: &[T], g: &[T], dx: &mut [T], s: Params) {
    let (sample, c, m) = (s.pixels as usize * s.c as usize, s.c as usize, s.map());
    let samples = dx.par_chunks_mut(sample).zip(x.par_chunks(sample)).enumerate();
    samples.for_each(|(i, (dx, x))| {
        let (a, g, norm) = (&a[i * m..][..m], &g[i * m..][..m], norms[i]);
        if norm.f64() <= EPS {
            return dx.fill(T::zero());
        }
        let along = T::of(a.iter().zip(g).map(|(a, g)| a.f64() * g.f64()).sum::<f64>());
        let dq: Vec<T> = a.iter().zip(g).map(|(a, g)| (*g - *a * along) / norm).collect();
        super::vectorize::vectorize(
            #[inline(always)]
            || {
                for (pixel, (dx, x)) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).enumerate() {
                    if s.channel == 1 {
                        dx.iter_mut().zip(x).zip(&dq).for_each(|((dx, x), q)| *dx = slope(*x, s.p) * *q);
                    } else {
                        dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = slope(*x, s.p) * dq[pixel]);
                    }
                }
            },
        );
    });
}

fn gpu_fwd(x: &Tensor, a: &Tensor, norms: &Tensor, s: Params) -> Result<()> {
    let gpu = x.gpu().expect("a GPU tensor");
    let n = s.n as usize;
    let (pieces, sums);
    if s.channel == 1 {
        pieces = (s.pixels as usize).div_ceil(SPAN);
        sums = Tensor::empty(&x.device(), [n, pieces, s.c as usize], x.dtype())?;
        Launch::new("attention_map_channel_f32")
            .grid([n as u32, pieces as u32, (s.c as u32).div_ceil(32)])
            .block([32, 8, 1])
            .ptr(x.address())
            .ptr(sums.address())
            .val(s)
            .run(gpu)?;
    } else {
        pieces = 1;
        sums = a.clone();
        gpu_pixel_sums(x, &sums, s)?;
    }
    Launch::new("attention_map_normalize_f32")
        .grid([n as u32, 1, 1])
        .block([256, 1, 1])
        .ptr(sums.address())
        .ptr(a.address())
        .ptr(norms.address())
        .val(s.map() as i32)
        .val(pieces as i32)
        .run(gpu)
}

fn gpu_bwd(x: &Tensor, a: &Tensor, norms: &Tensor, g: &Tensor, dx: &Tensor, s: Params) -> Result<()> {
    let gpu = x.gpu().expect("a GPU tensor");
    let dq = Tensor::empty_like(a, a.shape())?;
    Launch::new("attention_map_project_f32")
        .grid([s.n as u32, 1, 1])
        .block([256, 1, 1])
        .ptr(a.address())
        .ptr(norms.address())
        .ptr(g.address())
        .ptr(dq.address())
        .val(s.map() as i32)
        .run(gpu)?;
    gpu_slopes(x, &dq, dx, s)
}

/// `sums[n pixels] = sum_c |x|^p`, one warp per pixel.
pub(super) fn gpu_pixel_sums(x: &Tensor, sums: &Tensor, s: Params) -> Result<()> {
    Launch::over("attention_map_spatial_f32", (s.n * s.pixels) as usize * 32, 256)
        .ptr(x.address())
        .ptr(sums.address())
        .val(s)
        .run(x.gpu().expect("a GPU tensor"))
}

/// `dx = p |x|^(p-1) sign(x) dq` of the pixel or channel.
pub(super) fn gpu_slopes(x: &Tensor, dq: &Tensor, dx: &Tensor, s: Params) -> Result<()> {
    Launch::over("attention_map_bwd_f32", x.len(), 256)
        .ptr(x.address())
        .ptr(dq.address())
        .ptr(dx.address())
        .val(s)
        .run(x.gpu().expect("a GPU tensor"))
}

struct AttentionOp {
    x: Tensor,
    a: Tensor,
    norms: Tensor,
    params: Params,
}

impl Op for AttentionOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(g) = cx.grad(0) else { return Ok(()) };
        let Self { x, a, norms, params } = *self;
        let mut dx = Tensor::empty_like(&x, x.shape())?;
        if x.gpu().is_some() {
            gpu_bwd(&x, &a, &norms, &g, &dx, params)?;
        } else {
            crate::for_real!(OP, x.dtype(), T => {
                cpu_bwd::<T>(x.host(), a.host(), norms.host(), g.host(), dx.host_mut(), params);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [AttentionKind::Spatial, AttentionKind::Channel] {
        let case = |shape: [usize; 4], p: f32| {
            let run = move |t: &mut Tape, v: &[Var]| Ok(vec![attention_map(t, &v[0], kind, p)?]);
            let shape = Shape::from(shape);
            let n = shape.elements() as f64;
            // Away from the kink at 0.
            let input = Input::grad(shape).fill(Fill::Away { scale: 1.0, step: 100.0, gap: 0.05 });
            Case::new(format!("{kind:?}_p{p}_{shape}").to_lowercase(), vec![input], run)
                .reduction(shape.elements() / shape[0])
                .cost(2.0 * n, 4.0 * n)
        };
        for shape in [[1, 1, 1, 1], [3, 5, 7, 11], [2, 4, 4, 3], [2, 9, 9, 37]] {
            for p in [1.0, 2.0, 3.0] {
                cases.push(case(shape, p));
            }
        }
        // Powers of f32 are good to a few units.
        cases.push(case([2, 3, 3, 5], 2.5).slack(2.0));
        cases.push(case([64, 32, 32, 16], 2.0).bench());
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::tensor::DType;

    #[test]
    fn a_zero_map_is_zero_and_has_no_gradient() {
        for d in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            for kind in [AttentionKind::Spatial, AttentionKind::Channel] {
                let mut tape = Tape::new(&d);
                let x = tape.leaf(Tensor::zeros(&d, [2, 3, 3, 5], DType::F32).unwrap());
                let a = attention_map(&mut tape, &x, kind, 2.0).unwrap();
                assert!(a.value.to_f64().unwrap().iter().all(|v| *v == 0.0));
                let ones = crate::tensor::init::full(&d, a.shape(), 1.0).unwrap();
                let g = tape.backward_from(&[(&a, ones)]).unwrap();
                assert!(g.of(&x).unwrap().to_f64().unwrap().iter().all(|v| *v == 0.0));
            }
        }
    }

    #[test]
    fn bad_inputs_are_errors() {
        let d = Device::cpu();
        let mut tape = Tape::new(&d);
        let flat = tape.leaf(Tensor::zeros(&d, [2, 3], DType::F32).unwrap());
        assert!(attention_map(&mut tape, &flat, AttentionKind::Spatial, 2.0).is_err());
        let x = tape.leaf(Tensor::zeros(&d, [1, 1, 1, 1], DType::F32).unwrap());
        assert!(attention_map(&mut tape, &x, AttentionKind::Spatial, 0.5).is_err());
    }
}
