//! How the axes of a value in the file lie in our tensor.
//!
//! Our tensors are `n h w c` or `n c`. An axis of the file's value is a list of digits, each a factor of one of our axes with
//! its stride there, the major one first. So `n c h w` and `n h w c` files differ in the order of axes only, a flattened map is
//! an axis of three digits, and reshaping channels to groups splits a digit in two. Transposing, reshaping, squeezing and
//! flattening change the digits and leave our tensor alone. Digits of length 1 are left out.

use super::Outcome;
use super::host::{MAX_RANK, Size, listed};

/// An axis of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Never split: its digit stands for all images.
    Batch,
    Height,
    Width,
    Channel,
}

/// A factor of one of our axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digit {
    pub axis: Axis,
    pub len: usize,
    /// How far one step of this digit goes along our axis.
    pub stride: usize,
}

/// The axes of a value in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(pub Vec<Vec<Digit>>);

fn whole(axis: Axis, len: usize) -> Vec<Digit> {
    if len == 1 && axis != Axis::Batch { Vec::new() } else { vec![Digit { axis, len, stride: 1 }] }
}

/// Appends a digit; one that goes on where the last one ends is made one with it.
fn append(digits: &mut Vec<Digit>, d: Digit) {
    if d.len == 1 && d.axis != Axis::Batch {
        return;
    }
    match digits.last_mut() {
        Some(last) if last.axis == d.axis && last.stride == d.len * d.stride => {
            (last.len, last.stride) = (last.len * d.len, d.stride);
        }
        _ => digits.push(d),
    }
}

fn merged(digits: impl IntoIterator<Item = Digit>) -> Vec<Digit> {
    let mut all = Vec::new();
    digits.into_iter().for_each(|d| append(&mut all, d));
    all
}

impl Layout {
    /// `n c h w` of a map `h w c`.
    pub fn channels_first([h, w, c]: [usize; 3]) -> Self {
        use Axis::{Batch, Channel, Height, Width};
        Self(vec![whole(Batch, 1), whole(Channel, c), whole(Height, h), whole(Width, w)])
    }
    /// `n h w c`.
    pub fn channels_last([h, w, c]: [usize; 3]) -> Self {
        use Axis::{Batch, Channel, Height, Width};
        Self(vec![whole(Batch, 1), whole(Height, h), whole(Width, w), whole(Channel, c)])
    }
    /// `n c`.
    pub fn rows(c: usize) -> Self {
        Self(vec![whole(Axis::Batch, 1), whole(Axis::Channel, c)])
    }

    /// Joins digits that go on from one to the next.
    pub fn normal(&self) -> Self {
        Self(self.0.iter().map(|a| merged(a.iter().copied())).collect())
    }

    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// The file's size of an axis.
    pub fn size(&self, axis: usize) -> Size {
        let product = self.0[axis].iter().map(|d| d.len as i64).product();
        if self.0[axis].iter().any(|d| d.axis == Axis::Batch) { Size::Batch(product) } else { Size::Fixed(product) }
    }
    pub fn sizes(&self) -> Vec<Size> {
        (0..self.rank()).map(|i| self.size(i)).collect()
    }
    /// Writes the sizes for errors.
    pub fn shape(&self) -> String {
        listed(&self.sizes())
    }

    /// Whether all digits of `at` are of our axis `axis`.
    pub fn is(&self, at: usize, axis: Axis) -> bool {
        self.0[at].iter().all(|d| d.axis == axis)
    }
    /// Whether a digit of `axis` lies anywhere.
    pub fn has(&self, axis: Axis) -> bool {
        self.0.iter().flatten().any(|d| d.axis == axis)
    }
    /// The one axis on which all channels lie; `None` if there are several. Where there is one channel only, `absent`.
    pub fn channel_axis(&self, absent: usize) -> Option<usize> {
        let with: Vec<usize> =
            (0..self.rank()).filter(|&i| self.0[i].iter().any(|d| d.axis == Axis::Channel)).collect();
        match with[..] {
            [] => Some(absent),
            [one] if self.is(one, Axis::Channel) => Some(one),
            _ => None,
        }
    }

    pub fn transposed(&self, perm: &[usize]) -> Self {
        Self(perm.iter().map(|&p| self.0[p].clone()).collect())
    }
    /// Removes axes of size 1.
    pub fn squeezed(&self, gone: &[usize]) -> Outcome<Self> {
        if let Some(&axis) = gone.iter().find(|&&i| !self.0[i].is_empty()) {
            return Err(format!("removes axis {axis} of {}, which is not 1", self.shape()));
        }
        Ok(Self((0..self.rank()).filter(|i| !gone.contains(i)).map(|i| self.0[i].clone()).collect()))
    }
    /// Inserts axes of size 1 at the increasing indices `new` of the result.
    pub fn unsqueezed(&self, new: &[usize]) -> Outcome<Self> {
        let rank = self.rank() + new.len();
        if rank > MAX_RANK {
            return Err(format!("{rank} dimensions are too many"));
        }
        let mut old = self.0.iter();
        let axis = |i: usize| if new.contains(&i) { None } else { old.next().cloned() };
        Ok(Self((0..rank).map(axis).map(Option::unwrap_or_default).collect()))
    }
    /// Axes before `at` as one, the rest as another.
    pub fn flattened(&self, at: usize) -> Self {
        let join = |axes: &[Vec<Digit>]| merged(axes.iter().flatten().copied());
        Self(vec![join(&self.0[..at]), join(&self.0[at..])])
    }

    /// Returns the layout under other dimensions. `wanted`: 0 copies a dimension unless `zero`, -1 is what is left. `batch`: the
    /// size of the file's batch if it is fixed, so that a number can stand for it.
    pub fn reshaped(&self, wanted: &[Size], zero: bool, batch: Option<i64>) -> Outcome<Self> {
        let fail = || format!("{} to {} is not supported", self.shape(), listed(wanted));
        if wanted.len() > MAX_RANK {
            return Err(fail());
        }
        let target = self.target(wanted, zero, batch).ok_or_else(fail)?;
        let mut left: Vec<Digit> = self.0.iter().flatten().copied().rev().collect();
        let mut axes = Vec::with_capacity(target.len());
        for size in target {
            axes.push(take(&mut left, size, batch).ok_or_else(fail)?);
        }
        if left.is_empty() { Ok(Self(axes)) } else { Err(fail()) }
    }

    /// `wanted` without 0 and -1.
    fn target(&self, wanted: &[Size], zero: bool, batch: Option<i64>) -> Option<Vec<Size>> {
        let mut target = Vec::with_capacity(wanted.len());
        for (i, &size) in wanted.iter().enumerate() {
            target.push(match size {
                Size::Fixed(0) if !zero && i < self.rank() => self.size(i),
                Size::Fixed(v) if v == -1 || v > 0 => size,
                Size::Batch(k) if k > 0 => size,
                _ => return None,
            });
        }
        let open: Vec<usize> = (0..target.len()).filter(|&i| target[i] == Size::Fixed(-1)).collect();
        let Some(&at) = open.first() else { return Some(target) };
        if open.len() > 1 {
            return None;
        }
        // Both products leave the batch out.
        let product = |all: &[Size]| {
            let factor = |s: &Size| match *s {
                Size::Fixed(v) => v.abs(),
                Size::Batch(k) => k,
            };
            all.iter().map(factor).try_fold(1i64, i64::checked_mul)
        };
        let (all, rest) = (product(&self.sizes())?, product(&target)?);
        let said = target.iter().any(|s| matches!(s, Size::Batch(_)));
        target[at] = match batch {
            _ if said => Size::Fixed(exact(all, rest)?),
            Some(b) => Size::Fixed(exact(all.checked_mul(b)?, rest)?),
            None => Size::Batch(exact(all, rest)?),
        };
        Some(target)
    }

    /// Index along our axis for each index along the file's axis `at`, whose digits are all of one axis.
    pub fn positions(&self, at: usize) -> Vec<usize> {
        positions(&self.0[at])
    }
}

/// `a / b` if nothing is left.
fn exact(a: i64, b: i64) -> Option<i64> {
    a.checked_div(b).filter(|q| q.checked_mul(b) == Some(a) && *q > 0)
}

/// Index along our axis for each number that `digits` can write.
pub fn positions(digits: &[Digit]) -> Vec<usize> {
    let mut all = vec![0];
    for d in digits {
        all = all.iter().flat_map(|&i| (0..d.len).map(move |j| i + j * d.stride)).collect();
    }
    all
}

/// Takes the digits of one axis of `size` from the end of `left`, which lies in reverse order; splits the last if need be.
fn take(left: &mut Vec<Digit>, size: Size, batch: Option<i64>) -> Option<Vec<Digit>> {
    let mut found = Vec::new();
    let (mut rest, mut open) = match size {
        Size::Fixed(v) => (v, false),
        Size::Batch(k) => (k, true),
    };
    loop {
        match left.last().copied() {
            // A batch of 1 begins an axis of its own.
            Some(d) if d.axis == Axis::Batch && rest == 1 && !open && !found.is_empty() => break,
            Some(d) if d.axis == Axis::Batch => {
                let own = match batch {
                    _ if open => 1,
                    Some(b) if exact(rest, b).is_some() => b,
                    _ if rest == 1 => break,
                    _ => return None,
                };
                rest /= own;
                open = false;
                append(&mut found, d);
                left.pop();
            }
            Some(d) if rest > 1 => {
                let len = d.len as i64;
                left.pop();
                if let Some(q) = exact(rest, len) {
                    rest = q;
                    append(&mut found, d);
                } else {
                    let low = exact(len, rest)? as usize;
                    append(&mut found, Digit { len: rest as usize, stride: d.stride * low, ..d });
                    left.push(Digit { len: low, ..d });
                    rest = 1;
                }
            }
            _ => break,
        }
    }
    (rest == 1 && !open).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: [usize; 3] = [5, 7, 8];

    fn fixed(v: &[i64]) -> Vec<Size> {
        v.iter().map(|&v| Size::Fixed(v)).collect()
    }

    #[test]
    fn transposes_are_free() {
        let nhwc = Layout::channels_last(MAP);
        assert_eq!(nhwc.transposed(&[0, 3, 1, 2]), Layout::channels_first(MAP));
        assert_eq!(Layout::channels_first(MAP).transposed(&[0, 2, 3, 1]), nhwc);
        assert_eq!(nhwc.shape(), "[batch, 5, 7, 8]");
    }

    /// Channel `i` of a shuffle comes from group `i mod g`.
    #[test]
    fn a_shuffle_of_channels_is_a_permutation() {
        for (layout, split, perm) in [
            (Layout::channels_first(MAP), fixed(&[1, 2, 4, 5, 7]), [0, 2, 1, 3, 4]),
            (Layout::channels_last(MAP), fixed(&[-1, 5, 7, 2, 4]), [0, 1, 2, 4, 3]),
        ] {
            let at = layout.channel_axis(9).unwrap();
            let groups = layout.reshaped(&split, false, Some(1)).unwrap();
            assert_eq!(groups.channel_axis(9), None);
            let shuffled = groups.transposed(&perm).reshaped(&layout.sizes(), false, Some(1)).unwrap();
            assert_eq!(shuffled.positions(at), [0, 4, 1, 5, 2, 6, 3, 7]);
            assert_eq!(shuffled.sizes(), layout.sizes());
            // And back again.
            let back = shuffled.reshaped(&groups.transposed(&perm).sizes(), false, Some(1)).unwrap();
            let mut inverse = [0; 5];
            perm.iter().enumerate().for_each(|(i, &p)| inverse[p] = i);
            assert_eq!(back.transposed(&inverse).reshaped(&layout.sizes(), false, None).unwrap(), layout);
        }
    }

    #[test]
    fn rows_of_a_flattened_map_keep_the_files_order() {
        let flat = Layout::channels_first([2, 1, 3]).reshaped(&fixed(&[0, -1]), false, None).unwrap();
        assert_eq!(flat, Layout::channels_first([2, 1, 3]).flattened(1));
        assert_eq!(flat.size(1), Size::Fixed(6));
        assert_eq!(Layout::channels_last(MAP).flattened(1).0[1].len(), 3);
    }

    #[test]
    fn the_batch_is_kept_apart() {
        let map = Layout::channels_first(MAP);
        let flat = map.flattened(1);
        for (wanted, batch) in [
            (vec![Size::Batch(1), Size::Fixed(-1)], None),
            (fixed(&[-1, 280]), None),
            (fixed(&[1, -1]), Some(1)),
            (fixed(&[2, 280]), Some(2)),
            (fixed(&[-1, 280]), Some(2)),
            (vec![Size::Batch(1), Size::Fixed(280)], Some(2)),
        ] {
            assert_eq!(map.reshaped(&wanted, false, batch).as_ref(), Ok(&flat), "{wanted:?} {batch:?}");
        }
        for (wanted, batch) in [
            (fixed(&[3, -1]), None),
            (fixed(&[-1, 279]), None),
            (fixed(&[-1, -1]), None),
            (fixed(&[280, -1]), Some(2)),
            (fixed(&[i64::MAX, i64::MAX, -1]), Some(2)),
            (fixed(&[-7, 280]), None),
        ] {
            assert!(map.reshaped(&wanted, false, batch).is_err(), "{wanted:?} {batch:?}");
        }
        // Two images side by side, as ShuffleNet's authors split channels.
        let odd = map.reshaped(&[Size::Batch(4), Size::Fixed(2), Size::Fixed(35)], false, None).unwrap();
        assert_eq!(odd.positions(1), [0, 1]);
        assert_eq!(odd.size(0), Size::Batch(4));
    }

    #[test]
    fn allowzero_without_a_zero_means_nothing() {
        let map = Layout::channels_first(MAP);
        assert_eq!(map.reshaped(&fixed(&[-1, 280]), true, None), Ok(map.flattened(1)));
        assert!(map.reshaped(&fixed(&[0, 280]), true, None).is_err());
    }
}
