//! Circular shift of images: what leaves at one edge enters at the opposite one. Pixel jitter while images are optimised
//! (DSG's released PTQ code; DeepInversion, Yin et al. 2020).
//!
//! `y[n, i, j] = x[n, (i - dy) mod h, (j - dx) mod w]`; the gradient is shifted back.

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{Real, Tensor};
use rayon::prelude::*;

const OP: &str = "roll";

/// Kernel parameters, mirrored in `kernels/roll.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: i32,
    h: i32,
    w: i32,
    c: i32,
    /// In `0..h` and `0..w`.
    down: i32,
    right: i32,
}

/// All images of `x[n h w c]` (F32, F64 on the CPU) moved by `shift` = `[down, right]` pixels, of any sign and size. Errors
/// on another rank or an empty tensor.
pub fn roll(tape: &mut Tape, x: &Var, shift: [i64; 2]) -> Result<Var> {
    let [_, h, w, _] = x.shape().nhwc(OP)?;
    let size = x.value.len();
    crate::ensure_op!((1..=1 << 30).contains(&size), OP, "cannot shift {}", x.shape());
    let shift = [shift[0].rem_euclid(h as i64) as usize, shift[1].rem_euclid(w as i64) as usize];
    let y = moved(&x.value, shift)?;
    Ok(tape.record_one(RollOp { back: [(h - shift[0]) % h, (w - shift[1]) % w] }, &[x], y))
}

fn moved(x: &Tensor, [down, right]: [usize; 2]) -> Result<Tensor> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    let mut y = Tensor::empty_like(x, x.shape())?;
    if let Some(gpu) = x.gpu() {
        let [n, h, w, c, down, right] = [n, h, w, c, down, right].map(|v| v as i32);
        Launch::over("roll_f32", x.len(), 256)
            .ptr(x.address())
            .ptr(y.address())
            .val(Params { n, h, w, c, down, right })
            .run(gpu)?;
        return Ok(y);
    }
    crate::for_real!(OP, x.dtype(), T => {
        cpu::<T>(x.host(), y.host_mut(), [h, w * c], [down, right * c]);
        Ok(())
    })?;
    Ok(y)
}

/// Lines of pixels: whole lines move down, each in two pieces to the right.
fn cpu<T: Real>(x: &[T], y: &mut [T], [h, line]: [usize; 2], [down, right]: [usize; 2]) {
    y.par_chunks_mut(h * line).zip(x.par_chunks(h * line)).for_each(|(y, x)| {
        for (i, x) in x.chunks_exact(line).enumerate() {
            let y = &mut y[(i + down) % h * line..][..line];
            let (stay, wrap) = x.split_at(line - right);
            y[right..].copy_from_slice(stay);
            y[..right].copy_from_slice(wrap);
        }
    });
}

struct RollOp {
    back: [usize; 2],
}

impl Op for RollOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        cx.give(0, moved(&dy, self.back)?)
    }
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], shift: [i64; 2]| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![roll(t, &v[0], shift)?]);
        let name = format!("{}_by_{}_{}", crate::tensor::Shape::from(shape), shift[0], shift[1]);
        Case::new(name, vec![Input::grad(shape)], run)
    };
    let bytes = 8.0 * (64 * 32 * 32 * 3) as f64;
    vec![
        case([1, 1, 1, 1], [3, -2]),
        case([3, 5, 7, 11], [2, 0]),
        case([3, 5, 7, 11], [0, -3]),
        case([2, 4, 4, 3], [-9, 6]),
        case([2, 13, 17, 5], [1, 16]),
        case([64, 32, 32, 3], [-30, 29]).cost(0.0, bytes).bench(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn pixels_move_down_and_right_and_wrap() {
        let d = Device::cpu();
        let x = Tensor::from_slice(&d, [1, 2, 3, 1], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let of = |shift| roll(&mut Tape::inference(&d), &Var::constant(x.clone()), shift).unwrap().value;
        assert_eq!(of([1, 1]).to_vec::<f32>().unwrap(), [6.0, 4.0, 5.0, 3.0, 1.0, 2.0]);
        assert_eq!(of([0, 0]).to_vec::<f32>().unwrap(), of([-2, 3]).to_vec::<f32>().unwrap());
        let flat = Var::constant(x.reshape([6]).unwrap());
        assert!(roll(&mut Tape::inference(&d), &flat, [0, 0]).is_err());
    }
}
