//! All weights of a network fake-quantized at once: each output channel over its own extremes, as `observe::min_max` and
//! `fake_quant` do weight by weight, to the bit.
//!
//! `lo, hi = min, max of the row`, `q = code(w)`, `value = value(q)` (`crate::quant::Affine`). No gradient of its own: the
//! straight-through rule takes the gradient of the values for that of the weights ([`crate::autograd::Tape::straight_through`]).

use super::case::{Case, GradCheck, Input};
use super::observe::row_ends;
use super::vectorize::vectorize;
use crate::Result;
use crate::autograd::{Tape, Var};
use crate::device::{Device, Launch};
use crate::quant::{Affine, RoundEven};
use crate::tensor::{DType, Tensor};
use rayon::prelude::*;

const OP: &str = "weight_quant";

/// A weight in a flat buffer.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Of its first element.
    pub start: usize,
    /// Output channels.
    pub rows: usize,
    /// Elements of each.
    pub length: usize,
    pub bits: u8,
}

/// Rows of all weights of a buffer, ready for the device.
pub struct Rows {
    parts: Vec<Part>,
    /// I32 `[rows 3]`: start, length, bits.
    table: Tensor,
    end: usize,
}

impl Rows {
    /// Errors unless parts follow each other without overlap, hold something, and have 2 to 8 bits. Uploads a table.
    pub fn new(device: &Device, parts: &[Part]) -> Result<Self> {
        let (mut table, mut end) = (Vec::new(), 0);
        for p in parts {
            let fits = p.start >= end && p.rows > 0 && p.length > 0 && (2..=8).contains(&p.bits);
            crate::ensure_op!(fits, OP, "{p:?} begins before {end}, is empty, or has not 2 to 8 bits");
            end = p.start + p.rows * p.length;
            crate::ensure_op!(end <= 1 << 30, OP, "{p:?} ends beyond 2^30 elements");
            let row = |i: usize| [(p.start + i * p.length) as i32, p.length as i32, i32::from(p.bits)];
            table.extend((0..p.rows).flat_map(row));
        }
        crate::ensure_op!(!parts.is_empty(), OP, "no weights");
        let table = Tensor::from_slice(device, [table.len() / 3, 3], &table)?;
        Ok(Self { parts: parts.to_vec(), table, end })
    }

    /// Of all weights together.
    pub fn count(&self) -> usize {
        self.table.dim(0)
    }
}

/// What [`weight_quant`] makes; values and codes lie where the weights lie, and gaps between them are not written.
#[derive(Clone)]
pub struct Quantized {
    pub values: Tensor,
    /// I8.
    pub codes: Tensor,
    /// Ranges by row, in the order of the parts.
    pub lo: Tensor,
    pub hi: Tensor,
}

/// Quantizes the `rows` of `flat` (any shape, F32; F64 on the CPU). One launch. Errors if they end beyond it.
pub fn weight_quant(flat: &Tensor, rows: &Rows) -> Result<Quantized> {
    let (n, count) = (flat.len(), rows.count());
    crate::ensure_op!(rows.end <= n, OP, "weights end at {} in a buffer of {n}", rows.end);
    crate::ensure_op!(rows.table.device() == flat.device(), OP, "weights and their rows lie on different devices");
    let mut made = Quantized {
        values: Tensor::empty_like(flat, [n])?,
        codes: Tensor::empty(&flat.device(), [n], DType::I8)?,
        lo: Tensor::empty_like(flat, [count])?,
        hi: Tensor::empty_like(flat, [count])?,
    };
    if let Some(gpu) = flat.gpu() {
        Launch::new("weight_quant_fwd_f32")
            .grid([count as u32, 1, 1])
            .block([128, 1, 1])
            .ptr(flat.address())
            .ptr(rows.table.address())
            .ptr(made.values.address())
            .ptr(made.codes.address())
            .ptr(made.lo.address())
            .ptr(made.hi.address())
            .run(gpu)?;
    } else {
        crate::for_real!(OP, flat.dtype(), T => {
            cpu::<T>(flat.host(), rows, &mut made);
            Ok(())
        })?;
    }
    Ok(made)
}

fn cpu<T: RoundEven>(flat: &[T], rows: &Rows, made: &mut Quantized) {
    let (mut values, mut codes) = (made.values.host_mut::<T>(), made.codes.host_mut::<i8>());
    let mut ranges = made.lo.host_mut::<T>().iter_mut().zip(made.hi.host_mut::<T>());
    let (mut jobs, mut at) = (Vec::with_capacity(rows.count()), 0);
    for p in &rows.parts {
        for i in 0..p.rows {
            let start = p.start + i * p.length;
            let (v, after) = values[start - at..].split_at_mut(p.length);
            let (q, rest) = codes[start - at..].split_at_mut(p.length);
            (values, codes, at) = (after, rest, start + p.length);
            jobs.push((&flat[start..at], v, q, ranges.next().expect("a range per row"), p.bits));
        }
    }
    jobs.into_par_iter().with_min_len(32).for_each(|(w, values, codes, (lo, hi), bits)| {
        [*lo, *hi] = row_ends(w);
        let a = Affine::new(*lo, *hi, bits);
        vectorize(
            #[inline(always)]
            || {
                for ((v, q), w) in values.iter_mut().zip(codes).zip(w) {
                    let code = a.code(*w);
                    *v = a.value(code);
                    *q = code.to_code();
                }
            },
        );
    });
}

pub fn cases() -> Vec<Case> {
    let case = |label: &str, parts: Vec<Part>| {
        let end = parts.last().map_or(0, |p| p.start + p.rows * p.length);
        let run = move |_: &mut Tape, v: &[Var]| {
            let flat = &v[0].value;
            let made = weight_quant(flat, &Rows::new(&flat.device(), &parts)?)?;
            let mut out = vec![Var::constant(made.lo), Var::constant(made.hi)];
            for p in &parts {
                out.push(Var::constant(made.values.view(p.start, [p.rows, p.length])?));
                out.push(Var::constant(made.codes.view(p.start, [p.rows, p.length])?));
            }
            Ok(out)
        };
        Case::new(label, vec![Input::plain([end + 5])], run).check(GradCheck::None)
    };
    let part = |start: usize, rows: usize, length: usize, bits: u8| Part { start, rows, length, bits };
    vec![
        case("one", vec![part(0, 1, 2, 4)]),
        case("gaps", vec![part(3, 5, 7, 2), part(40, 3, 130, 8), part(64 + 390, 2, 33, 3)]),
        case("resnet20", vec![part(0, 16, 27, 8), part(448, 16, 144, 4), part(2752, 64, 576, 4)]).bench(),
    ]
}
