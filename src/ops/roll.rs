//! Circular shift of images: what leaves at one edge enters at the opposite one. Pixel jitter while images are optimised
//! (DSG's released PTQ code; DeepInversion, Yin et al. 2020).
//!
//! `y[n, i, j] = x[n, (i - dy) mod h, (j - dx) mod w]`; the gradient is shifted back.

use super::case::{Case, Input};
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
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
    /// What is taken off a stored shift, and whether it goes back.
    reach: i32,
    back: i32,
}

/// How far images are moved.
#[derive(Clone, Debug)]
pub enum Shift {
    /// `[down, right]` in pixels, of any sign and size.
    Now([i64; 2]),
    /// I32 `[2]` that a GPU reads when the kernel runs, so that a recorded launch takes the shift of the day: the same plus
    /// `reach`, and not negative.
    Stored(Tensor, usize),
}

impl From<[i64; 2]> for Shift {
    fn from(shift: [i64; 2]) -> Self {
        Self::Now(shift)
    }
}

/// All images of `x[n h w c]` (F32, F64 on the CPU) moved by `shift`. Errors on another rank, an empty tensor or a shift that
/// is stored elsewhere than on the images' GPU.
pub fn roll(tape: &mut Tape, x: &Var, shift: impl Into<Shift>) -> Result<Var> {
    x.shape().nhwc(OP)?;
    let size = x.value.len();
    crate::ensure_op!((1..=1 << 30).contains(&size), OP, "cannot shift {}", x.shape());
    let shift = shift.into();
    if let Shift::Stored(t, reach) = &shift {
        let good = t.dtype() == DType::I32 && t.len() == 2 && t.gpu().is_some() && t.device() == x.value.device();
        crate::ensure_op!(good && *reach <= 1 << 20, OP, "a stored shift is I32 [2] on the images' GPU, got {t:?}");
    }
    let y = moved(&x.value, &shift, false)?;
    Ok(tape.record_one(RollOp { shift }, &[x], y))
}

/// Moved by the shift, or `back`.
fn moved(x: &Tensor, shift: &Shift, back: bool) -> Result<Tensor> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    let [down, right] = match shift {
        Shift::Now(shift) => shift.map(|s| if back { -s } else { s }),
        Shift::Stored(..) => [0; 2],
    };
    let [down, right] = [down.rem_euclid(h as i64) as usize, right.rem_euclid(w as i64) as usize];
    let mut y = Tensor::empty_like(x, x.shape())?;
    if let Some(gpu) = x.gpu() {
        let (stored, reach) = match shift {
            Shift::Now(_) => (0, 0),
            Shift::Stored(t, reach) => (t.address(), *reach),
        };
        let [n, h, w, c, down, right, reach] = [n, h, w, c, down, right, reach].map(|v| v as i32);
        Launch::over("roll_f32", x.len(), 256)
            .ptr(x.address())
            .ptr(y.address())
            .ptr(stored)
            .val(Params { n, h, w, c, down, right, reach, back: back.into() })
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
    shift: Shift,
}

impl Op for RollOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        cx.give(0, moved(&dy, &self.shift, true)?)
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
        let stored = Tensor::from_slice(&d, [2], &[1i32, 1]).unwrap();
        assert!(roll(&mut Tape::inference(&d), &Var::constant(x.clone()), Shift::Stored(stored, 0)).is_err());
        let flat = Var::constant(x.reshape([6]).unwrap());
        assert!(roll(&mut Tape::inference(&d), &flat, [0, 0]).is_err());
    }
    #[test]
    fn a_stored_shift_moves_the_same() {
        let Ok(d) = Device::emulator() else { return };
        let values: Vec<f32> = (0..2 * 5 * 7 * 3).map(|i| i as f32).collect();
        let run = |shift: Shift| {
            let mut tape = Tape::new(&d);
            let x = tape.leaf(Tensor::from_slice(&d, [2, 5, 7, 3], &values).unwrap());
            let y = roll(&mut tape, &x, shift).unwrap();
            let g = tape.backward_from(&[(&y, x.value.clone())]).unwrap().of(&x).unwrap();
            (y.value.to_vec::<f32>().unwrap(), g.to_vec::<f32>().unwrap())
        };
        for shift in [[0i64, 0], [3, -2], [-9, 8], [9, 6]] {
            let stored = Tensor::from_slice(&d, [2], &shift.map(|s| s as i32 + 9)).unwrap();
            assert_eq!(run(shift.into()), run(Shift::Stored(stored, 9)), "{shift:?}");
        }
    }
}
