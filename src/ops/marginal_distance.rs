//! Keeps features at some cosine distance from the mean of their class, neither less nor more: IntraQ's marginal distance
//! constraint (Zhong et al., CVPR 2022, released code).
//!
//! `d_b = 1 - cos(x_b, m_y)`; `1/s sum_b [max(lower - d_b, 0) + max(d_b - upper, 0)]` over the `s` rows whose class has a
//! mean, 0 if none has. Gradient of a cosine: `dcos/dx = m / (|x| |m|) - cos x / |x|^2`. Where `|x| |m| <= 1e-12` the row
//! costs what `cos = 0` costs and passes no gradient.

use super::case::{Case, Input};
use super::row_loss;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::{Device, Launch};
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "marginal_distance";
const EPS: f64 = 1e-12;

/// Means of the features of each class so far.
#[derive(Clone)]
pub struct ClassMeans {
    /// `[classes c]`, 0 where a class has none.
    pub mean: Tensor,
    /// `[classes]`, 1 where a class has one, else 0.
    pub seen: Tensor,
    count: Vec<u32>,
}

impl ClassMeans {
    /// None seen. F32 of `device`.
    pub fn new(device: &Device, classes: usize, c: usize) -> Result<Self> {
        let mean = Tensor::zeros(device, [classes, c], DType::F32)?;
        Ok(Self { mean, seen: Tensor::zeros(device, [classes], DType::F32)?, count: vec![0; classes] })
    }

    /// Takes `features[n c]` (F32) of classes `labels[n]` (I32) into the means. Waits for the device. Errors on other shapes
    /// and on a label that is no class.
    pub fn add(&mut self, features: &Tensor, labels: &Tensor) -> Result<()> {
        let [n, c] = row_loss::rows_of(OP, features)?;
        let labels_on_host = labels.to_vec::<i32>()?;
        let fits = labels_on_host.len() == n && c == self.mean.dim(1);
        crate::ensure_op!(fits, OP, "features {features:?} with labels {labels:?} for means {:?}", self.mean);
        let classes = self.count.len() as i32;
        let bad = labels_on_host.iter().find(|l| !(0..classes).contains(l));
        crate::ensure_op!(bad.is_none(), OP, "label {} is not in 0..{classes}", bad.unwrap_or(&0));
        let mut means: Vec<f64> = self.mean.to_vec::<f32>()?.into_iter().map(f64::from).collect();
        for (x, l) in features.to_vec::<f32>()?.chunks_exact(c).zip(labels_on_host) {
            self.count[l as usize] += 1;
            let share = 1.0 / f64::from(self.count[l as usize]);
            means[l as usize * c..][..c].iter_mut().zip(x).for_each(|(m, x)| *m += share * (f64::from(*x) - *m));
        }
        let device = self.mean.device();
        let means: Vec<f32> = means.into_iter().map(|m| m as f32).collect();
        self.mean = Tensor::from_slice(&device, self.mean.shape(), &means)?;
        let seen: Vec<f32> = self.count.iter().map(|n| if *n > 0 { 1.0 } else { 0.0 }).collect();
        self.seen = Tensor::from_slice(&device, [seen.len()], &seen)?;
        Ok(())
    }
}

/// The scalar loss `[1]` of features `x[n c]` (F32; F64 on the CPU) of classes `labels[n]` (I32) against `mean[classes c]`
/// and `seen[classes]` (constants of x's dtype), `0 <= lower <= upper`. A label that is no class is an error on the CPU and
/// makes the loss NaN on a GPU.
pub fn marginal_distance(
    tape: &mut Tape,
    x: &Var,
    labels: &Var,
    mean: &Tensor,
    seen: &Tensor,
    [lower, upper]: [f32; 2],
) -> Result<Var> {
    let [n, c] = row_loss::rows_of(OP, &x.value)?;
    let classes = seen.len();
    let fits = mean.shape()[..] == [classes, c] && mean.dtype() == x.dtype() && seen.dtype() == x.dtype();
    crate::ensure_op!(fits, OP, "x {:?} with means {mean:?} and {seen:?}", x.value);
    crate::ensure_op!(0.0 <= lower && lower <= upper && upper.is_finite(), OP, "bounds {lower} and {upper}");
    row_loss::check_labels(OP, &labels.value, n, classes)?;
    let mut slopes = row_loss::slopes(tape, &[x])?;
    let mut loss = Tensor::empty_like(&x.value, [1])?;
    if let Some(gpu) = x.value.gpu() {
        let row_losses = Tensor::empty(tape.device(), [n], DType::F64)?;
        Launch::new("marginal_distance_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(x.value.address())
            .ptr(labels.value.address())
            .ptr(mean.address())
            .ptr(seen.address())
            .ptr(row_losses.address())
            .ptr(row_loss::address(&slopes[0]))
            .val(lower)
            .val(upper)
            .val(n as i32)
            .val(c as i32)
            .val(classes as i32)
            .run(gpu)?;
        row_loss::sum_on_gpu(&row_losses, &loss)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            let (x, labels) = (x.value.host::<T>(), labels.value.host::<i32>());
            let (mean, seen) = (mean.host::<T>(), seen.host::<T>());
            let counts = |l: i32| seen[l as usize] .f64() != 0.0;
            let weight = 1.0 / labels.iter().filter(|l| counts(**l)).count().max(1) as f64;
            let bounds = [lower, upper].map(f64::from);
            let sum = row_loss::on_cpu::<T>(n, c, &mut slopes, |b, g| match labels[b] {
                l if counts(l) => row(&x[b * c..][..c], &mean[l as usize * c..][..c], bounds, weight, g),
                _ => 0.0,
            });
            loss.host_mut::<T>()[0] = T::of(sum);
            Ok(())
        })?;
    }
    Ok(row_loss::record(tape, OP, &[x], slopes, loss))
}

fn row<T: Real>(x: &[T], mean: &[T], [lower, upper]: [f64; 2], weight: f64, g: &mut [f64]) -> f64 {
    let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.f64() * b.f64()).sum::<f64>();
    let square = dot(x, x);
    let norms = square.sqrt() * dot(mean, mean).sqrt();
    // A norm that is not a number is not small, and stays what it is.
    let none = norms <= EPS;
    let cos = if none { 0.0 } else { dot(x, mean) / norms };
    let d = 1.0 - cos;
    // The gradient to the cosine.
    let pull = if none {
        0.0
    } else if d < lower {
        weight
    } else if d > upper {
        -weight
    } else {
        0.0
    };
    if pull != 0.0 {
        let pairs = x.iter().zip(mean);
        g.iter_mut().zip(pairs).for_each(|(g, (x, m))| *g = pull * (m.f64() / norms - cos * x.f64() / square));
    }
    // NaN passes both comparisons of max.
    if d.is_nan() { d } else { weight * ((lower - d).max(0.0) + (d - upper).max(0.0)) }
}

pub fn cases() -> Vec<Case> {
    let case = |n: usize, c: usize, classes: usize, bounds: [f32; 2]| {
        let run = move |t: &mut Tape, v: &[Var]| {
            // Every third class has no mean.
            let device = v[0].value.device();
            let mask = |i: usize| if i % 3 == 2 { 0.0 } else { 1.0 };
            let seen = match v[0].dtype() {
                DType::F64 => Tensor::from_slice(&device, [classes], &(0..classes).map(mask).collect::<Vec<f64>>())?,
                _ => {
                    let mask = (0..classes).map(|i| mask(i) as f32).collect::<Vec<f32>>();
                    Tensor::from_slice(&device, [classes], &mask)?
                }
            };
            Ok(vec![marginal_distance(t, &v[0], &v[1], &v[2].value, &seen, bounds)?])
        };
        let inputs = vec![Input::grad([n, c]), Input::labels(n, classes), Input::plain([classes, c])];
        let elements = (n * c) as f64;
        Case::new(format!("{n}x{c}_k{classes}_{}_{}", bounds[0], bounds[1]), inputs, run)
            .cost(6.0 * elements, 12.0 * elements)
    };
    vec![
        case(1, 1, 1, [0.05, 0.8]),
        case(3, 7, 2, [0.05, 0.8]),
        case(7, 13, 5, [1.5, 1.6]),
        case(5, 131, 3, [0.0, 0.3]),
        case(64, 64, 10, [0.05, 0.8]).bench(),
        case(256, 512, 1000, [0.05, 0.8]).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_pushed_from_and_pulled_to_the_mean_of_their_class() {
        for d in [Ok(Device::cpu()), Device::emulator()].into_iter().flatten() {
            let mut means = ClassMeans::new(&d, 3, 2).unwrap();
            let first = Tensor::from_slice(&d, [2, 2], &[3f32, 0.0, 1.0, 0.0]).unwrap();
            means.add(&first, &Tensor::from_slice(&d, [2], &[0, 0]).unwrap()).unwrap();
            assert_eq!(means.mean.to_vec::<f32>().unwrap(), [2.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
            assert_eq!(means.seen.to_vec::<f32>().unwrap(), [1.0, 0.0, 0.0]);
            let loss = |x: [f32; 2], label: i32, bounds: [f32; 2]| {
                let mut tape = Tape::new(&d);
                let x = tape.leaf(Tensor::from_slice(&d, [1, 2], &x).unwrap());
                let y = Var::constant(Tensor::from_slice(&d, [1], &[label]).unwrap());
                let loss = marginal_distance(&mut tape, &x, &y, &means.mean, &means.seen, bounds).unwrap();
                let value = loss.value.item().unwrap();
                (value, tape.backward(&loss).unwrap().of(&x).unwrap().to_vec::<f32>().unwrap())
            };
            // On the mean's direction and to be apart; at a right angle and to be near; between; no mean yet.
            assert_eq!(loss([4.0, 0.0], 0, [0.5, 0.75]), (0.5, vec![0.0, 0.0]));
            assert_eq!(loss([0.0, 2.0], 0, [0.25, 0.5]), (0.5, vec![-0.5, 0.0]));
            assert_eq!(loss([0.0, 2.0], 0, [0.25, 1.5]), (0.0, vec![0.0, 0.0]));
            assert_eq!(loss([0.0, 2.0], 1, [0.25, 0.5]), (0.0, vec![0.0, 0.0]));
        }
    }

    #[test]
    fn labels_and_bounds_are_checked() {
        let d = Device::cpu();
        let mut means = ClassMeans::new(&d, 2, 1).unwrap();
        let one = Tensor::from_slice(&d, [1, 1], &[1f32]).unwrap();
        assert!(means.add(&one, &Tensor::from_slice(&d, [1], &[2]).unwrap()).is_err());
        let y = Var::constant(Tensor::from_slice(&d, [1], &[0]).unwrap());
        let mut tape = Tape::inference(&d);
        for bounds in [[-0.1, 0.5], [0.6, 0.5], [0.1, f32::INFINITY]] {
            let outcome =
                marginal_distance(&mut tape, &Var::constant(one.clone()), &y, &means.mean, &means.seen, bounds);
            assert!(outcome.is_err(), "{bounds:?}");
        }
    }
}
