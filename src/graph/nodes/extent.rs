//! Sizes of maps and windows, checked: they may come from a file.

use crate::ops::conv2d::Conv2dParams;
use crate::tensor::Shape;

/// What a node's sizes amount to, or why they do not fit. The caller adds the node's name.
pub type Outcome<T> = std::result::Result<T, String>;

/// Sizes of one dimension, window, stride, padding or dilation, at most.
pub const MAX_SIZE: usize = 1 << 16;
/// Numbers of one sample's value between nodes, at most.
pub const MAX_VALUE: usize = 1 << 26;

/// Errors if one of `sizes` is larger than [`MAX_SIZE`].
pub fn bounded(sizes: &[usize]) -> Outcome<()> {
    match sizes.iter().find(|s| **s > MAX_SIZE) {
        Some(s) => Err(format!("{s} is larger than {MAX_SIZE}")),
        None => Ok(()),
    }
}

/// Returns the first input.
pub fn first(x: &[Shape]) -> Outcome<Shape> {
    x.first().copied().ok_or_else(|| "has no input".into())
}

/// Returns `[n, h, w, c]` of the first input.
pub fn image(x: &[Shape]) -> Outcome<[usize; 4]> {
    let x = first(x)?;
    match x[..] {
        [n, h, w, c] => Ok([n, h, w, c]),
        _ => Err(format!("input {:?} is not h w c", x.get(1..).unwrap_or(&[]))),
    }
}

/// Returns the output's height and width of a window of `taps` over a map of `size`.
pub fn windows(size: [usize; 2], taps: [usize; 2], p: &Conv2dParams) -> Outcome<[usize; 2]> {
    bounded(&taps)?;
    let Conv2dParams { stride: strides, pad: pads, dilation: dilations, .. } = *p;
    bounded(&[&strides[..], &pads, &dilations].concat())?;
    let mut out = [0; 2];
    for axis in 0..2 {
        let (stride, dilation) = (strides[axis], dilations[axis]);
        if stride == 0 || dilation == 0 || taps[axis] == 0 {
            return Err(format!("a window of {} at stride {stride} with dilation {dilation}", taps[axis]));
        }
        let padded = size[axis] + pads[axis] + pads[axis + 2];
        let reach = (taps[axis] - 1) * dilation + 1;
        let Some(room) = padded.checked_sub(reach) else {
            return Err(format!("a window of {reach} does not fit in {} with padding", size[axis]));
        };
        out[axis] = room / stride + 1;
    }
    Ok(out)
}
