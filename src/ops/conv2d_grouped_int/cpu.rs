//! Integer sums of groups on the CPU: a prepared convolution of codes for each wide group, spread pixels for narrow and dilated
//! ones. In f64 each group is the definition, the oracle.

use crate::ops::conv2d_grouped::{Gather, Groups, Lanes, Number, apart, together};
use crate::ops::conv2d_int::{Plan, Ranges, sums_f64};
use rayon::prelude::*;

/// A filter prepared for an input size, whatever the batch.
pub struct Filter {
    g: Groups,
    sums: Sums,
    x_zero: i64,
    /// Units of the sums.
    unit: Vec<f32>,
}

enum Sums {
    /// One per group; sums come with their units.
    Groups(Vec<Plan>),
    Narrow(Gather<i32>),
    Wide(Gather<i64>),
}

/// Integers that sums fit in.
trait Sum: Number {
    fn of(v: i64) -> Self;
    /// Rounded once.
    fn float(self) -> f32;
}
impl Sum for i32 {
    #[inline(always)]
    fn of(v: i64) -> Self {
        v as i32
    }
    #[inline(always)]
    fn float(self) -> f32 {
        self as f32
    }
}
impl Sum for i64 {
    #[inline(always)]
    fn of(v: i64) -> Self {
        v
    }
    #[inline(always)]
    fn float(self) -> f32 {
        self as f32
    }
}

/// The quantizers of the filters of group `j`.
fn of_group<T: Clone + Copy>(ranges: &Ranges<T>, g: &Groups, j: usize) -> Ranges<T> {
    let filters = j * g.each.k..(j + 1) * g.each.k;
    let (w, w_zero) = (ranges.w[filters.clone()].to_vec(), ranges.w_zero[filters].to_vec());
    Ranges { x: ranges.x, x_zero: ranges.x_zero, w, w_zero }
}

/// `(qw + zw)` for all lanes.
fn gather<S: Sum>(w: &[i8], ranges: &Ranges<f32>, g: &Groups) -> Gather<S> {
    let (c, taps) = (g.each.c, g.each.r * g.each.s);
    let at = |k: usize, tap: usize, i: usize| S::of(i64::from(w[(k * taps + tap) * c + i]) + ranges.w_zero[k]);
    Gather::forward(g, Lanes::forward(g).pack(taps, at))
}

impl Filter {
    /// Of the codes `w[k r s c/groups]`.
    pub(super) fn new(w: &[i8], ranges: &Ranges<f32>, g: &Groups) -> Self {
        let of = |(j, w): (usize, &[i8])| Plan::new(w, &of_group(ranges, g, j), &g.each);
        let plans = match g.narrow() {
            true => None,
            false => w.chunks_exact(w.len() / g.count).enumerate().map(of).collect::<Option<Vec<Plan>>>(),
        };
        let sums = match plans {
            Some(plans) => Sums::Groups(plans),
            None if ranges.fit_i32(g.each.r * g.each.s * g.each.c) => Sums::Narrow(gather(w, ranges, g)),
            None => Sums::Wide(gather(w, ranges, g)),
        };
        let unit = ranges.w.iter().map(|w| ranges.unit(w)).collect();
        Self { g: *g, sums, x_zero: ranges.x_zero, unit }
    }

    /// `y[n p q k]` of the codes `x[n h w c]`.
    pub(super) fn fprop(&self, x: &[i8], bias: Option<&[f32]>, y: &mut [f32]) {
        match &self.sums {
            Sums::Groups(plans) => {
                let (count, each) = (self.g.count, &self.g.each);
                let x = apart(x, count, each.c);
                let mut parts = vec![0f32; y.len()];
                parts
                    .par_chunks_exact_mut(y.len() / count)
                    .zip(x.par_chunks_exact(x.len() / count).zip(plans))
                    .for_each(|(y, (x, plan))| plan.run(x, y, |_, _, sums, y| y.copy_from_slice(sums)));
                together(&parts, y, count, each.k, |y, part, first| match bias {
                    Some(b) => y.iter_mut().zip(part.iter().zip(&b[first..])).for_each(|(y, (v, b))| *y = *v + *b),
                    None => y.copy_from_slice(part),
                });
            }
            Sums::Narrow(gather) => self.run(gather, x, bias, y),
            Sums::Wide(gather) => self.run(gather, x, bias, y),
        }
    }

    fn run<S: Sum>(&self, gather: &Gather<S>, x: &[i8], bias: Option<&[f32]>, y: &mut [f32]) {
        let zero = S::of(self.x_zero);
        let read = |code: i8| {
            let mut value = S::of(i64::from(code));
            value += zero;
            value
        };
        let finish = |y: &mut [f32], sums: &[S], first: usize| {
            let units = &self.unit[first..];
            y.iter_mut().zip(sums.iter().zip(units)).for_each(|(y, (sum, unit))| *y = sum.float() * *unit);
            if let Some(bias) = bias {
                y.iter_mut().zip(&bias[first..]).for_each(|(y, b)| *y += *b);
            }
        };
        gather.run(x, y, read, |_| S::default(), finish);
    }
}

/// `y[n p q k]` in f64, each group by the definition.
pub(super) fn fprop_f64(x: &[i8], w: &[i8], ranges: &Ranges<f64>, bias: Option<&[f64]>, y: &mut [f64], g: &Groups) {
    let each = &g.each;
    let x = apart(x, g.count, each.c);
    let mut parts = vec![0f64; y.len()];
    let (image, filter, part) = (x.len() / g.count, w.len() / g.count, y.len() / g.count);
    for (j, part) in parts.chunks_exact_mut(part).enumerate() {
        let (x, w) = (&x[j * image..][..image], &w[j * filter..][..filter]);
        sums_f64(x, w, &of_group(ranges, g, j), part, each);
    }
    together(&parts, y, g.count, each.k, |y, part, first| {
        for (i, (y, v)) in y.iter_mut().zip(part).enumerate() {
            *y = *v + bias.map_or(0.0, |b| b[first + i]);
        }
    });
}
