//! Cross entropy with a margin on the angle between a feature vector and its class's centre, the classifier's row.
//!
//! Logits `f . w_k + b_k`, but the target's is `|f| |w_y| cos(min(theta + m, pi)) + b_y`, `theta` the angle between `f` and
//! `w_y` (the additive angular margin of ArcFace, Deng et al. 2019, with lengths kept). With `s = |f| |w_y| sin theta` it is
//! `cos m (f . w_y) - sin m s`, gradient to `f`: `(cos m + sin m (f . w_y) / s) w_y - sin m |w_y|^2 / s f`; beyond `pi`
//! `-|f| |w_y|`, gradient `-|w_y| / |f| f`. Where `s = 0` the turn has no direction and counts as none.
//!
//! A reconstruction of the adversarial margin add of LRQ (2022), of which only is known that it enlarges this angle: a
//! generator that minimises this loss has to come closer to the centre than without.

use super::case::{Case, Fill, Input};
use super::linear::linear;
use super::loss::softmax_cross_entropy;
use super::row_loss;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};

const OP: &str = "margin_cross_entropy";

/// Kernel parameters, mirrored in `kernels/margin_cross_entropy.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    cos_margin: f64,
    sin_margin: f64,
    c: i32,
    classes: i32,
}

/// The scalar loss `[1]`, nats, mean over samples: `features[n, c]`, constant `weights[k, c]` and `bias[k]` of the
/// classifier, `labels[n]` (I32), `margin` in radians, `0..=pi` (0 is plain cross entropy). F32 (F64 on the CPU). Gradient
/// to the features. A label outside `0..k` is an error on the CPU and makes the loss NaN on a GPU.
pub fn margin_cross_entropy(
    tape: &mut Tape,
    features: &Var,
    weights: &Tensor,
    bias: Option<&Tensor>,
    labels: &Var,
    margin: f32,
) -> Result<Var> {
    let fixed = bias.map(|b| Var::constant(b.clone()));
    let logits = linear(tape, features, &Var::constant(weights.clone()), fixed.as_ref())?;
    let turned = angular_margin(tape, &logits, features, weights, bias, labels, margin)?;
    softmax_cross_entropy(tape, &turned, labels)
}

/// `logits[n, k]` of `features[n, c]` with each row's target replaced, see above; the rest passes through. For other
/// losses on the same logits. Gradients to both.
pub fn angular_margin(
    tape: &mut Tape,
    logits: &Var,
    features: &Var,
    weights: &Tensor,
    bias: Option<&Tensor>,
    labels: &Var,
    margin: f32,
) -> Result<Var> {
    let [n, c] = row_loss::rows_of(OP, &features.value)?;
    let [rows, classes] = row_loss::rows_of(OP, &logits.value)?;
    let fits = rows == n && weights.shape()[..] == [classes, c] && bias.is_none_or(|b| b.len() == classes);
    crate::ensure_op!(
        fits,
        OP,
        "logits {} of features {} by weights {} and a bias of {:?}",
        logits.shape(),
        features.shape(),
        weights.shape(),
        bias.map(Tensor::len)
    );
    let dtype = features.dtype();
    let same = logits.dtype() == dtype && weights.dtype() == dtype && bias.is_none_or(|b| b.dtype() == dtype);
    crate::ensure_op!(same, OP, "logits, features, weights and bias must be of one dtype");
    row_loss::check_labels(OP, &labels.value, n, classes)?;
    let m = f64::from(margin);
    crate::ensure_op!((0.0..=std::f64::consts::PI + 1e-6).contains(&m), OP, "the margin must be in 0..=pi, got {m}");
    let p = Params { cos_margin: m.cos(), sin_margin: m.sin(), c: c as i32, classes: classes as i32 };
    let mut out = Tensor::empty_like(&logits.value, [n, classes])?;
    let mut turn = Tensor::empty(tape.device(), [n, 2], DType::F64)?;
    if let Some(gpu) = out.gpu() {
        Launch::new("margin_cross_entropy_fwd_f32")
            .grid([n as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(logits.value.address())
            .ptr(features.value.address())
            .ptr(weights.address())
            .ptr(bias.map_or(0, Tensor::address))
            .ptr(labels.value.address())
            .ptr(out.address())
            .ptr(turn.address())
            .val(p)
            .run(gpu)?;
    } else {
        crate::for_real!(OP, dtype, T => {
            let (f, w) = (features.value.host::<T>(), weights.host::<T>());
            let out = out.host_mut::<T>();
            out.copy_from_slice(logits.value.host());
            let turn = turn.host_mut::<f64>();
            for (b, &y) in labels.value.host::<i32>().iter().enumerate() {
                let y = y as usize;
                let (target, toward, along) = target(&f[b * c..][..c], &w[y * c..][..c], p);
                out[b * classes + y] = T::of(target + bias.map_or(0.0, |b| b.host::<T>()[y].f64()));
                turn[2 * b] = toward;
                turn[2 * b + 1] = along;
            }
            Ok(())
        })?;
    }
    let op = MarginOp {
        features: features.value.clone(),
        weights: weights.clone(),
        labels: labels.value.clone(),
        turn,
        params: p,
    };
    Ok(tape.record_one(op, &[logits, features], out))
}

/// The target's logit without bias, and the factors of weight and feature in its gradient.
fn target<T: Real>(f: &[T], w: &[T], p: Params) -> (f64, f64, f64) {
    let dot = |a: &[T], b: &[T]| -> f64 { a.iter().zip(b).map(|(a, b)| a.f64() * b.f64()).sum() };
    let (ff, ww, fw) = (dot(f, f), dot(w, w), dot(f, w));
    let lengths = ff.sqrt() * ww.sqrt();
    if fw <= -lengths * p.cos_margin && lengths != 0.0 {
        return (-lengths, 0.0, -(ww / ff).sqrt());
    }
    let across = ff * ww - fw * fw;
    if across <= 1e-12 * ff * ww {
        return (p.cos_margin * fw, p.cos_margin, 0.0);
    }
    let sine = across.sqrt();
    (p.cos_margin * fw - p.sin_margin * sine, p.cos_margin + p.sin_margin * fw / sine, -p.sin_margin * ww / sine)
}

struct MarginOp {
    features: Tensor,
    weights: Tensor,
    labels: Tensor,
    turn: Tensor,
    params: Params,
}

impl Op for MarginOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dout) = cx.grad(0) else { return Ok(()) };
        let (c, classes) = (self.params.c as usize, self.params.classes as usize);
        let make = |wanted: bool, like: &Tensor| wanted.then(|| Tensor::empty_like(like, like.shape())).transpose();
        let mut dlogits = make(cx.needs(0), &dout)?;
        let mut dfeatures = make(cx.needs(1), &self.features)?;
        if let Some(gpu) = dout.gpu() {
            Launch::new("margin_cross_entropy_bwd_f32")
                .grid([dout.dim(0) as u32, 1, 1])
                .block([128, 1, 1])
                .ptr(dout.address())
                .ptr(self.features.address())
                .ptr(self.weights.address())
                .ptr(self.labels.address())
                .ptr(self.turn.address())
                .ptr(row_loss::address(&dlogits))
                .ptr(row_loss::address(&dfeatures))
                .val(self.params)
                .run(gpu)?;
        } else {
            crate::for_real!(OP, dout.dtype(), T => {
                let (g, f, w) = (dout.host::<T>(), self.features.host::<T>(), self.weights.host::<T>());
                let turn = self.turn.host::<f64>();
                if let Some(d) = &mut dlogits {
                    d.copy_from(&dout)?;
                }
                for (b, &y) in self.labels.host::<i32>().iter().enumerate() {
                    let y = y as usize;
                    let dy = g[b * classes + y].f64();
                    if let Some(d) = &mut dlogits {
                        d.host_mut::<T>()[b * classes + y] = T::of(0.0);
                    }
                    if let Some(d) = &mut dfeatures {
                        for i in 0..c {
                            let (f, w) = (f[b * c + i].f64(), w[y * c + i].f64());
                            d.host_mut::<T>()[b * c + i] = T::of(dy * (turn[2 * b] * w + turn[2 * b + 1] * f));
                        }
                    }
                }
                Ok(())
            })?;
        }
        for (i, g) in [dlogits, dfeatures].into_iter().enumerate() {
            if let Some(g) = g {
                cx.give(i, g)?;
            }
        }
        Ok(())
    }
}

pub fn cases() -> Vec<Case> {
    let inputs =
        |[n, c, k]: [usize; 3]| vec![Input::grad([n, c]), Input::plain([k, c]), Input::plain([k]), Input::labels(n, k)];
    let mut cases = Vec::new();
    for (name, margin, biased) in [("m0", 0.0, true), ("m0.3", 0.3, true), ("m0.5", 0.5, false), ("m2.5", 2.5, true)] {
        let run = move |t: &mut Tape, v: &[Var]| {
            let bias = biased.then_some(&v[2].value);
            Ok(vec![margin_cross_entropy(t, &v[0], &v[1].value, bias, &v[3], margin)?])
        };
        for shape @ [n, c, k] in [[1, 1, 1], [3, 1, 2], [5, 7, 3], [4, 37, 11], [3, 131, 131]] {
            cases.push(Case::new(format!("{name}_{n}x{c}_to_{k}"), inputs(shape), run).reduction(c));
        }
        if margin == 0.3 {
            let case = Case::new("m0.3_200x64_to_100", inputs([200, 64, 100]), run).reduction(64);
            cases.push(case.cost(2.6e6, 3e5).bench());
        }
    }
    // The margin alone, gradients to logits and features.
    let run = |t: &mut Tape, v: &[Var]| Ok(vec![angular_margin(t, &v[0], &v[1], &v[2].value, None, &v[3], 0.4)?]);
    let alone = vec![Input::grad([5, 3]), Input::grad([5, 7]), Input::plain([3, 7]), Input::labels(5, 3)];
    cases.push(Case::new("logits_5x7_to_3", alone, run));
    // No feature, no angle: the logit is 0, not NaN, and the gradient that of its limit along the centre.
    let zero = Input::plain([2, 3]).fill(Fill::Values(vec![0.0; 6]));
    let still = vec![Input::grad([2, 4]), zero, Input::plain([4, 3]), Input::labels(2, 4)];
    cases.push(Case::new("zero_features", still, run));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    fn target_logit(f: &[f64], w: &[f64], margin: f32) -> f64 {
        let d = Device::cpu();
        let mut tape = Tape::inference(&d);
        let f = Var::constant(Tensor::from_slice(&d, [1, f.len()], f).unwrap());
        let w = Tensor::from_slice(&d, [1, w.len()], w).unwrap();
        let logits = Var::constant(Tensor::zeros(&d, [1, 1], DType::F64).unwrap());
        let y = Var::constant(Tensor::from_slice(&d, [1], &[0]).unwrap());
        angular_margin(&mut tape, &logits, &f, &w, None, &y, margin).unwrap().value.item().unwrap()
    }

    #[test]
    fn the_margin_is_an_angle_and_stops_at_pi() {
        // 60 degrees plus 30 is a right angle.
        let f = [0.5, 0.75f64.sqrt()];
        let sixth = std::f32::consts::FRAC_PI_6;
        assert!(target_logit(&f, &[3.0, 0.0], sixth).abs() < 1e-6);
        assert!((target_logit(&f, &[3.0, 0.0], 0.0) - 1.5).abs() < 1e-12);
        assert!((target_logit(&f, &[-3.0, 0.0], 2.0) + 3.0).abs() < 1e-12);
    }
}
