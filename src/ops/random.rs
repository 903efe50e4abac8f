//! Random tensors: standard normals, uniforms, class labels, from the counter-based generator Philox4x32-10.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Random123). Element `i`
//! is word `i % 4` of the block with counter `(i / 4, stream)` under key `seed`, so a value depends on its index, seed
//! and stream alone: not on the device, the number of threads or what was drawn before. Integers and uniforms are equal
//! bit for bit on all devices. Normals (Box-Muller: `sqrt(-2 ln u) * (cos, sin)(2 pi v)`) are computed in f64 and rounded
//! once, so devices differ by at most one unit in the last place.

use super::case::{Case, GradCheck};
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::{Device, Launch};
use crate::tensor::{DType, Element, Shape, Tensor};
use rayon::prelude::*;

/// Four random words: Philox4x32 with ten rounds of `counter` under `key`.
#[inline(always)]
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let [mut k0, mut k1] = key;
    for round in 0..10 {
        if round > 0 {
            k0 = k0.wrapping_add(0x9E37_79B9);
            k1 = k1.wrapping_add(0xBB67_AE85);
        }
        let x = u64::from(a) * 0xD251_1F53;
        let y = u64::from(c) * 0xCD9E_8D57;
        (a, b, c, d) = ((y >> 32) as u32 ^ b ^ k0, y as u32, (x >> 32) as u32 ^ d ^ k1, x as u32);
    }
    [a, b, c, d]
}

fn split(v: u64) -> [u32; 2] {
    [v as u32, (v >> 32) as u32]
}

/// Which of the independent sequences of a seed a draw takes (say, a purpose and a step). A number, or one that is formed
/// from a step counter when the draw is made, so that a recorded launch draws anew whenever it is replayed.
#[derive(Clone, Debug)]
pub struct Stream {
    base: u64,
    /// I32 `[2]`, low and high word, and what the counter is multiplied by.
    counter: Option<(Tensor, u64)>,
}

impl From<u64> for Stream {
    fn from(base: u64) -> Self {
        Self { base, counter: None }
    }
}

impl Stream {
    /// Sequence `times * counter + plus`, with `counter` I32 `[2]`, low word first, on the device of the draw.
    pub fn counted(counter: &Tensor, times: u64, plus: u64) -> Self {
        Self { base: plus, counter: Some((counter.clone(), times)) }
    }

    /// The number, on the CPU.
    fn number(&self) -> u64 {
        let Some((counter, times)) = &self.counter else { return self.base };
        let words = counter.host::<i32>();
        let counter = u64::from(words[0] as u32) | u64::from(words[1] as u32) << 32;
        self.base.wrapping_add(counter.wrapping_mul(*times))
    }
}

/// Words of block `i`.
#[inline(always)]
fn block(i: u64, seed: u64, stream: u64) -> [u32; 4] {
    let ([c0, c1], [c2, c3]) = (split(i), split(stream));
    philox([c0, c1, c2, c3], split(seed))
}

/// Uniform in `[0, 1)` with 24 bits: exact in f32.
#[inline(always)]
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two standard normals from two words.
#[inline(always)]
fn box_muller(u: u32, v: u32) -> [f32; 2] {
    // (0, 1], so that the logarithm is finite.
    let u = (f64::from(u >> 8) + 1.0) * (1.0 / 16_777_216.0);
    let v = f64::from(v >> 8) * (1.0 / 16_777_216.0);
    let r = (-2.0 * u.ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * v).sin_cos();
    [(r * cos) as f32, (r * sin) as f32]
}

/// Blocks per parallel chunk.
const CHUNK: usize = 1 << 12;

fn fill<T: Element>(t: &mut Tensor, seed: u64, stream: u64, f: impl Fn([u32; 4]) -> [T; 4] + Sync) {
    t.host_mut::<T>().par_chunks_mut(4 * CHUNK).enumerate().for_each(|(chunk, out)| {
        for (i, out) in out.chunks_mut(4).enumerate() {
            let four = f(block((chunk * CHUNK + i) as u64, seed, stream));
            out.copy_from_slice(&four[..out.len()]);
        }
    });
}

/// Kernel parameters, mirrored in `kernels/random.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    seed: u64,
    stream: u64,
    /// Address of the step counter or 0, and what it is multiplied by.
    counter: u64,
    times: u64,
    n: i32,
    /// Labels: number of classes.
    classes: u32,
    /// Uniforms: `low + (high - low) * u`.
    low: f32,
    width: f32,
}

fn launch(kernel: &'static str, t: &Tensor, p: Params) -> Result<()> {
    Launch::over(kernel, t.len().div_ceil(4), 256).ptr(t.address()).val(p).run(t.gpu().expect("a GPU tensor"))
}

fn params(t: &Tensor, seed: u64, stream: &Stream) -> Result<Params> {
    crate::ensure_op!(t.len() <= 1 << 30, "random", "{} elements are more than 2^30", t.len());
    let (mut counter, mut factor) = (0, 0);
    if let Some((words, times)) = &stream.counter {
        let fits = words.dtype() == DType::I32 && words.len() == 2 && words.device() == t.device();
        crate::ensure_op!(fits, "random", "a step counter is I32 [2] on the draw's device, got {words:?}");
        (counter, factor) = (words.address(), *times);
    }
    let (n, stream) = (t.len() as i32, stream.base);
    Ok(Params { seed, stream, counter, times: factor, n, classes: 0, low: 0.0, width: 1.0 })
}

/// Standard normal values, F32. `stream` separates independent sequences of one `seed`, see [`Stream`].
pub fn normal(device: &Device, shape: impl Into<Shape>, seed: u64, stream: impl Into<Stream>) -> Result<Tensor> {
    let stream = stream.into();
    let mut t = Tensor::empty(device, shape, DType::F32)?;
    let p = params(&t, seed, &stream)?;
    if t.gpu().is_some() {
        launch("random_normal_f32", &t, p)?;
    } else {
        fill(&mut t, seed, stream.number(), |[a, b, c, d]| {
            let ([a, b], [c, d]) = (box_muller(a, b), box_muller(c, d));
            [a, b, c, d]
        });
    }
    Ok(t)
}

/// Uniform values in `[0, 1)`, F32, multiples of 2^-24.
pub fn uniform(device: &Device, shape: impl Into<Shape>, seed: u64, stream: impl Into<Stream>) -> Result<Tensor> {
    uniform_in(device, shape, 0.0, 1.0, seed, stream)
}

/// Uniform values `low + (high - low) * u`, F32: in `[low, high)` up to rounding. Errors unless `low < high`.
pub fn uniform_in(
    device: &Device,
    shape: impl Into<Shape>,
    low: f32,
    high: f32,
    seed: u64,
    stream: impl Into<Stream>,
) -> Result<Tensor> {
    let stream = stream.into();
    crate::ensure_op!(low < high && (high - low).is_finite(), "random", "no uniform values in [{low}, {high})");
    let mut t = Tensor::empty(device, shape, DType::F32)?;
    let p = Params { low, width: high - low, ..params(&t, seed, &stream)? };
    if t.gpu().is_some() {
        launch("random_uniform_f32", &t, p)?;
    } else {
        fill(&mut t, seed, stream.number(), |w| w.map(|w| p.low + p.width * unit(w)));
    }
    Ok(t)
}

/// `n` class labels in `0..classes`, I32, shape `[n]`; probabilities are equal up to `classes / 2^32`.
pub fn labels(
    device: &Device,
    n: usize,
    classes: usize,
    seed: u64,
    stream: impl Into<Stream>,
) -> Result<Tensor> {
    let stream = stream.into();
    crate::ensure_op!((1..=1 << 24).contains(&classes), "random", "cannot draw labels of {classes} classes");
    let mut t = Tensor::empty(device, [n], DType::I32)?;
    let p = Params { classes: classes as u32, ..params(&t, seed, &stream)? };
    if t.gpu().is_some() {
        launch("random_labels_i32", &t, p)?;
    } else {
        fill(&mut t, seed, stream.number(), |w| w.map(|w| ((u64::from(w) * classes as u64) >> 32) as i32));
    }
    Ok(t)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for n in [1usize, 7, 1031] {
        let run = move |t: &mut Tape, _: &[Var]| {
            let d = t.device().clone();
            let all = [normal(&d, [n], 1, 2)?, uniform_in(&d, [n], -0.1, 0.3, 3, 4)?, labels(&d, n, 10, 5, 6)?];
            Ok(all.into_iter().map(Var::constant).collect())
        };
        cases.push(Case::new(format!("n{n}"), vec![], run).check(GradCheck::None));
    }
    let run = |t: &mut Tape, _: &[Var]| Ok(vec![Var::constant(normal(&t.device().clone(), [200, 100], 1, 2)?)]);
    cases.push(Case::new("normal_200x100", vec![], run).check(GradCheck::None).cost(0.0, 4.0 * 2e4).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123.
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), answer);
    }

    #[test]
    fn moments_are_those_of_a_standard_normal() {
        let v = normal(&Device::cpu(), [100_000], 9, 0).unwrap().to_f64().unwrap();
        let n = v.len() as f64;
        let mean = v.iter().sum::<f64>() / n;
        let variance = v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let kurtosis = v.iter().map(|x| (x - mean).powi(4)).sum::<f64>() / n / variance.powi(2);
        // Five standard errors each.
        assert!(mean.abs() < 5.0 / n.sqrt() && (variance - 1.0).abs() < 5.0 * (2.0 / n).sqrt());
        assert!((kurtosis - 3.0).abs() < 5.0 * (24.0 / n).sqrt(), "{kurtosis}");
    }

    #[test]
    fn a_longer_draw_begins_with_the_shorter_one() {
        let d = Device::cpu();
        let long = uniform(&d, [5000], 3, 1).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(uniform(&d, [13], 3, 1).unwrap().to_vec::<f32>().unwrap(), long[..13]);
        assert_ne!(uniform(&d, [13], 3, 2).unwrap().to_vec::<f32>().unwrap(), long[..13]);
        assert!(long.iter().all(|u| (0.0..1.0).contains(u)));
    }

    #[test]
    fn labels_cover_all_classes_evenly() {
        let v = labels(&Device::cpu(), 50_000, 10, 1, 1).unwrap().to_vec::<i32>().unwrap();
        for class in 0..10 {
            let count = v.iter().filter(|&&l| l == class).count();
            assert!((4600..5400).contains(&count), "class {class}: {count}");
        }
        assert!(labels(&Device::cpu(), 1, 0, 1, 1).is_err());
    }

    /// A counter in memory gives the numbers of the stream that it stands for, as far as its words reach.
    #[test]
    fn counted_streams_are_those_of_their_numbers() {
        for device in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            for step in [3u64, 7 << 33] {
                let words = Tensor::from_slice(&device, [2], &[step as i32, (step >> 32) as i32]).unwrap();
                let draw = |s: Stream| {
                    let l = labels(&device, 17, 1 << 20, 5, s.clone()).unwrap().to_vec::<i32>().unwrap();
                    (l, normal(&device, [9], 5, s).unwrap().to_vec::<f32>().unwrap())
                };
                assert_eq!(draw(Stream::counted(&words, 8, 6)), draw((8 * step + 6).into()));
            }
            let short = Tensor::zeros(&device, [1], DType::I32).unwrap();
            let bad = Stream::counted(&short, 1, 0);
            assert!(labels(&device, 4, 10, 1, bad).unwrap_err().to_string().contains("step counter"));
        }
    }

    /// Integers and uniforms equal bit for bit on both devices, normals within 1e-6.
    #[test]
    fn both_devices_draw_the_same() {
        let Ok(gpu) = Device::emulator() else { return };
        let cpu = Device::cpu();
        let f = |t: Result<Tensor>| t.unwrap().to_vec::<f32>().unwrap();
        let l = |t: Result<Tensor>| t.unwrap().to_vec::<i32>().unwrap();
        assert_eq!(f(uniform(&gpu, [1003], 8, 1 << 40)), f(uniform(&cpu, [1003], 8, 1 << 40)));
        assert_eq!(l(labels(&gpu, 1003, 100, 1 << 50, 3)), l(labels(&cpu, 1003, 100, 1 << 50, 3)));
        for (a, b) in f(normal(&gpu, [1003], 4, 4)).iter().zip(&f(normal(&cpu, [1003], 4, 4))) {
            assert!((a - b).abs() <= 1e-6, "{a} {b}");
        }
    }
}
