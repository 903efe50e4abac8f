//! Windows of pooling, their output sizes and the pixels that each covers.

use crate::Result;
use crate::autograd::Var;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Largest window, stride or padding.
const LIMIT: usize = 1 << 16;

/// Windows of one pooling. `[height, width]`, padding as `[top, left, bottom, right]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolParams {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 4],
    /// Rounds the output size up. A last window that would start behind the image is left out.
    pub ceil: bool,
    /// Averages count pixels of the padding, as zeros. Windows are cut at the end of the padding. Maxima ignore it.
    pub count_pad: bool,
}

impl PoolParams {
    /// Square windows with `pad` pixels on all sides, the size rounded down, padding counted.
    pub fn square(k: usize, stride: usize, pad: usize) -> Self {
        Self { kernel: [k; 2], stride: [stride; 2], pad: [pad; 4], ceil: false, count_pad: true }
    }

    /// Height and width of the output for an image of `[h, w]` pixels: `(h + top + bottom - k) / stride + 1`, rounded down or
    /// up. Errors if a window or stride is 0, if padding reaches the window's size, or if the window does not fit.
    pub fn output(&self, [h, w]: [usize; 2]) -> std::result::Result<[usize; 2], String> {
        let Self { kernel: [kh, kw], stride: [sh, sw], pad: [top, left, bottom, right], ceil, .. } = *self;
        let axis = |size: usize, k: usize, stride: usize, before: usize, after: usize| {
            let padded = size.checked_add(before + after)?;
            let count = |n: usize| if ceil { n.div_ceil(stride) } else { n / stride };
            let out = count(padded.checked_sub(k)?) + 1;
            // Without pixels of the image the last window would have no value.
            Some(if (out - 1) * stride >= size + before { out - 1 } else { out })
        };
        let sane = [kh, kw, sh, sw].iter().all(|v| (1..=LIMIT).contains(v))
            && kh * kw <= LIMIT * LIMIT / 4
            && top.max(bottom) < kh
            && left.max(right) < kw;
        let sizes = sane.then(|| Some([axis(h, kh, sh, top, bottom)?, axis(w, kw, sw, left, right)?])).flatten();
        sizes.filter(|_| h > 0 && w > 0).ok_or_else(|| {
            format!(
                "a window of {kh}x{kw} at stride {sh}x{sw}, padded by {top} above, {left} left, {bottom} below and {right} right, \
                 does not fit an image of {h}x{w}; windows and strides are 1 to {LIMIT}, padding is less than the window"
            )
        })
    }
}

/// Sizes of one pooling; mirrors `Pool` in `kernels/pool.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Geometry {
    pub n: i32,
    pub h: i32,
    pub w: i32,
    pub c: i32,
    pub oh: i32,
    pub ow: i32,
    kh: i32,
    kw: i32,
    sh: i32,
    sw: i32,
    top: i32,
    left: i32,
    /// One past the last row and column that an average counts, and whether it counts those before the image.
    bottom: i32,
    right: i32,
    count_pad: i32,
    /// What every average divides by, or 0 if windows differ.
    pub count: i32,
}

impl Geometry {
    pub fn new(op: &'static str, x: &Var, p: PoolParams) -> Result<Self> {
        let [n, h, w, c] = x.shape().nhwc(op)?;
        let [oh, ow] = p.output([h, w]).map_err(|e| crate::Error::op(op, e))?;
        let after = if p.count_pad { [p.pad[2], p.pad[3]] } else { [0; 2] };
        let [n, h, w, c, oh, ow] = [n, h, w, c, oh, ow].map(|v| v as i32);
        let ([kh, kw], [sh, sw]) = (p.kernel.map(|v| v as i32), p.stride.map(|v| v as i32));
        let [top, left] = [p.pad[0], p.pad[1]].map(|v| v as i32);
        let [bottom, right] = [h + after[0] as i32, w + after[1] as i32];
        let count_pad = i32::from(p.count_pad);
        let mut g = Self { n, h, w, c, oh, ow, kh, kw, sh, sw, top, left, bottom, right, count_pad, count: 0 };
        let first = g.covered(0, 0);
        let alike = (0..oh as usize).all(|o| g.rows_covered(o) == g.rows_covered(0))
            && (0..ow as usize).all(|o| g.columns_covered(o) == g.columns_covered(0));
        g.count = if alike { first } else { 0 };
        Ok(g)
    }
    pub fn input(&self) -> Shape {
        [self.n as usize, self.h as usize, self.w as usize, self.c as usize].into()
    }
    pub fn output(&self) -> Shape {
        [self.n as usize, self.oh as usize, self.ow as usize, self.c as usize].into()
    }
    /// Rows of the image under window `o`.
    pub fn rows(&self, o: usize) -> std::ops::Range<usize> {
        let start = o as i32 * self.sh - self.top;
        start.max(0) as usize..(start + self.kh).min(self.h) as usize
    }
    /// Columns of the image under window `o`.
    pub fn columns(&self, o: usize) -> std::ops::Range<usize> {
        let start = o as i32 * self.sw - self.left;
        start.max(0) as usize..(start + self.kw).min(self.w) as usize
    }
    fn rows_covered(&self, o: usize) -> i32 {
        counted(o as i32 * self.sh - self.top, self.kh, self.bottom, self.count_pad)
    }
    fn columns_covered(&self, o: usize) -> i32 {
        counted(o as i32 * self.sw - self.left, self.kw, self.right, self.count_pad)
    }
    /// Pixels that the average of window `(oy, ox)` divides by.
    pub fn covered(&self, oy: usize, ox: usize) -> i32 {
        self.rows_covered(oy) * self.columns_covered(ox)
    }
}

fn counted(start: i32, k: i32, end: i32, count_pad: i32) -> i32 {
    let first = if count_pad != 0 { start } else { start.max(0) };
    (start + k).min(end) - first
}
