//! Shift of feature maps by at most one pixel per axis, mirrored at the edge: a crop out of a map with reflected borders.
//! In front of strided convolutions it makes every pixel count in turn while images are optimised through a network (swing
//! convolution; Genie, Jeon et al. 2023, released code).
//!
//! `y[n, i, j] = x[n, m(i + dy), m(j + dx)]`, `m` mirroring -1 to 1 and `h` to `h - 2`. The gradient is added where it came
//! from, in the order of the output.

use super::case::{Case, Input};
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Backward, Op, Tape, Var};
use crate::device::Launch;
use crate::tensor::{DType, Real, Tensor};
use rayon::prelude::*;

const OP: &str = "reflect_shift";

/// Kernel parameters, mirrored in `kernels/reflect_shift.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    n: i32,
    h: i32,
    w: i32,
    c: i32,
    dy: i32,
    dx: i32,
}

/// Where maps are read.
#[derive(Clone, Debug)]
pub enum Offset {
    /// `[dy, dx]`, each -1, 0 or 1.
    Now([i32; 2]),
    /// I32 `[2]` that a GPU reads when the kernel runs, so that a recorded launch takes the offset of the day: the same plus 1.
    /// Whoever writes it sees to it that it is 0, 1 or 2.
    Stored(Tensor),
}

impl From<[i32; 2]> for Offset {
    fn from(shift: [i32; 2]) -> Self {
        Self::Now(shift)
    }
}

/// `x[n h w c]` (F32, F64 on the CPU) read at an offset. Errors on other offsets, one that is stored elsewhere than on the
/// GPU of `x`, another rank, or maps with fewer than 2 pixels along an axis.
pub fn reflect_shift(tape: &mut Tape, x: &Var, offset: impl Into<Offset>) -> Result<Var> {
    let [n, h, w, c] = x.shape().nhwc(OP)?;
    let good = h >= 2 && w >= 2 && (1..=1 << 30).contains(&x.value.len());
    crate::ensure_op!(good, OP, "cannot mirror the edges of {}", x.shape());
    let (shift, stored) = match offset.into() {
        Offset::Now(shift) => {
            crate::ensure_op!(shift.iter().all(|s| s.abs() <= 1), OP, "shifts must be -1, 0 or 1, got {shift:?}");
            (shift, None)
        }
        Offset::Stored(t) => {
            let good = t.dtype() == DType::I32 && t.len() == 2 && t.gpu().is_some() && t.device() == x.value.device();
            crate::ensure_op!(good, OP, "a stored offset is I32 [2] on the GPU of the maps, got {t:?}");
            ([0; 2], Some(t))
        }
    };
    let [n, h, w, c] = [n, h, w, c].map(|v| v as i32);
    let p = Params { n, h, w, c, dy: shift[0], dx: shift[1] };
    let mut y = Tensor::empty_like(&x.value, x.shape())?;
    if let Some(gpu) = x.value.gpu() {
        launch("reflect_shift_fwd_f32", &x.value, &y, &stored, p).run(gpu)?;
    } else {
        crate::for_real!(OP, x.dtype(), T => {
            forward::<T>(x.value.host(), y.host_mut(), p);
            Ok(())
        })?;
    }
    Ok(tape.record_one(ReflectShiftOp { p, stored }, &[x], y))
}

fn launch(kernel: &'static str, from: &Tensor, to: &Tensor, stored: &Option<Tensor>, p: Params) -> Launch {
    let stored = stored.as_ref().map_or(0, Tensor::address);
    Launch::over(kernel, to.len(), 256).ptr(from.address()).ptr(to.address()).ptr(stored).val(p)
}

/// Mirrored at both ends of `0..n`.
fn mirror(i: i32, n: i32) -> usize {
    (if i < 0 { -i } else if i >= n { 2 * n - 2 - i } else { i }) as usize
}

/// Of a line: where the part that is only moved begins in the output and in the input, its length, and the output and
/// input of the mirrored pixel, if there is one. In pixels.
fn line(w: i32, dx: i32) -> ([usize; 3], Option<[usize; 2]>) {
    let edge = match dx {
        1 => Some([w as usize - 1, mirror(w, w)]),
        -1 => Some([0, mirror(-1, w)]),
        _ => None,
    };
    ([(-dx).max(0) as usize, dx.max(0) as usize, (w - dx.abs()) as usize], edge)
}

fn forward<T: Real>(x: &[T], y: &mut [T], p: Params) {
    let (c, row, image) = (p.c as usize, (p.w * p.c) as usize, (p.h * p.w * p.c) as usize);
    let ([to, from, count], edge) = line(p.w, p.dx);
    y.par_chunks_mut(image).zip(x.par_chunks(image)).for_each(|(y, x)| {
        for (i, y) in y.chunks_exact_mut(row).enumerate() {
            let x = &x[mirror(i as i32 + p.dy, p.h) * row..][..row];
            y[to * c..][..count * c].copy_from_slice(&x[from * c..][..count * c]);
            if let Some([to, from]) = edge {
                y[to * c..][..c].copy_from_slice(&x[from * c..][..c]);
            }
        }
    });
}

fn backward<T: Real>(dy: &[T], dx: &mut [T], p: Params) {
    let (c, row, image) = (p.c as usize, (p.w * p.c) as usize, (p.h * p.w * p.c) as usize);
    let ([to, from, count], edge) = line(p.w, p.dx);
    let add = |x: &mut [T], y: &[T]| {
        vectorize(
            #[inline(always)]
            || x.iter_mut().zip(y).for_each(|(x, y)| *x += *y),
        );
    };
    dx.par_chunks_mut(image).zip(dy.par_chunks(image)).for_each(|(x, y)| {
        x.fill(T::of(0.0));
        for (i, y) in y.chunks_exact(row).enumerate() {
            let x = &mut x[mirror(i as i32 + p.dy, p.h) * row..][..row];
            add(&mut x[from * c..][..count * c], &y[to * c..][..count * c]);
            if let Some([to, from]) = edge {
                add(&mut x[from * c..][..c], &y[to * c..][..c]);
            }
        }
    });
}

struct ReflectShiftOp {
    p: Params,
    stored: Option<Tensor>,
}

impl Op for ReflectShiftOp {
    fn name(&self) -> &'static str {
        OP
    }
    fn backward(self: Box<Self>, cx: &mut Backward) -> Result<()> {
        let Some(dy) = cx.grad(0) else { return Ok(()) };
        let mut dx = Tensor::empty_like(&dy, dy.shape())?;
        if let Some(gpu) = dy.gpu() {
            launch("reflect_shift_bwd_f32", &dy, &dx, &self.stored, self.p).run(gpu)?;
        } else {
            crate::for_real!(OP, dy.dtype(), T => {
                backward::<T>(dy.host(), dx.host_mut(), self.p);
                Ok(())
            })?;
        }
        cx.give(0, dx)
    }
}

pub fn cases() -> Vec<Case> {
    let case = |shape: [usize; 4], shift: [i32; 2]| {
        let run = move |t: &mut Tape, v: &[Var]| Ok(vec![reflect_shift(t, &v[0], shift)?]);
        let name = format!("{}_by_{}_{}", crate::tensor::Shape::from(shape), shift[0], shift[1]);
        Case::new(name, vec![Input::grad(shape)], run).reduction(4)
    };
    let mut cases = vec![case([1, 2, 2, 1], [1, 1]), case([1, 2, 2, 1], [-1, 1]), case([2, 4, 4, 3], [-1, -1])];
    cases.extend([[0, 0], [0, 1], [1, 0], [-1, 0], [1, -1], [-1, 1]].map(|s| case([3, 5, 7, 11], s)));
    cases.push(case([64, 32, 32, 16], [1, -1]).cost(0.0, 8.0 * (64 * 32 * 32 * 16) as f64).bench());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn edges_are_mirrored() {
        let d = Device::cpu();
        let x = Tensor::from_slice(&d, [1, 2, 3, 1], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let of = |shift| {
            let y = reflect_shift(&mut Tape::inference(&d), &Var::constant(x.clone()), shift)?;
            y.value.to_vec::<f32>()
        };
        assert_eq!(of([0, 1]).unwrap(), [2.0, 3.0, 2.0, 5.0, 6.0, 5.0]);
        assert_eq!(of([0, -1]).unwrap(), [2.0, 1.0, 2.0, 5.0, 4.0, 5.0]);
        assert_eq!(of([1, 0]).unwrap(), [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
        assert!(of([0, 2]).is_err());
        let line = Var::constant(x.reshape([1, 1, 6, 1]).unwrap());
        assert!(reflect_shift(&mut Tape::inference(&d), &line, [0, 0]).is_err());
    }
    #[test]
    fn a_stored_offset_reads_the_same() {
        let Ok(d) = Device::emulator() else { return };
        let values: Vec<f32> = (0..2 * 5 * 7 * 3).map(|i| i as f32).collect();
        let run = |offset: Offset| {
            let mut tape = Tape::new(&d);
            let x = tape.leaf(Tensor::from_slice(&d, [2, 5, 7, 3], &values).unwrap());
            let y = reflect_shift(&mut tape, &x, offset).unwrap();
            let g = tape.backward_from(&[(&y, x.value.clone())]).unwrap().of(&x).unwrap();
            (y.value.to_vec::<f32>().unwrap(), g.to_vec::<f32>().unwrap())
        };
        for shift in [[0, 0], [1, -1], [-1, 0], [0, 1]] {
            let stored = Tensor::from_slice(&d, [2], &shift.map(|s| s + 1)).unwrap();
            assert_eq!(run(shift.into()), run(Offset::Stored(stored)), "{shift:?}");
        }
    }
}
