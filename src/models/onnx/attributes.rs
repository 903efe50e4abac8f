//! Attributes of a node, with ONNX's defaults, and the windows that they describe.

use super::{MAX_SIZE, Outcome};
use crate::tensor::onnx::{AttributeProto, NodeProto};

#[derive(Clone, Copy)]
pub struct Attributes<'a>(pub &'a NodeProto);

/// How a window moves over a map; the same along both axes and on all sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub stride: usize,
    pub pad: usize,
    pub dilation: usize,
}

impl<'a> Attributes<'a> {
    pub fn get(self, name: &str) -> Option<&'a AttributeProto> {
        self.0.attribute.iter().find(|a| a.name == name)
    }
    pub fn int(self, name: &str, default: i64) -> i64 {
        self.get(name).map_or(default, |a| a.i)
    }
    pub fn float(self, name: &str, default: f32) -> f32 {
        self.get(name).map_or(default, |a| a.f)
    }
    pub fn ints(self, name: &str) -> Option<&'a [i64]> {
        self.get(name).map(|a| &a.ints[..])
    }
    /// Errors unless the attribute is absent or `wanted`.
    pub fn only(self, name: &str, wanted: i64) -> Outcome<()> {
        match self.int(name, wanted) {
            i if i == wanted => Ok(()),
            i => Err(format!("{name} = {i} is not supported, only {wanted}")),
        }
    }

    /// One number for both axes.
    fn both(self, name: &str, least: usize) -> Outcome<usize> {
        let Some(values) = self.ints(name) else { return Ok(1) };
        let size = |v: i64| usize::try_from(v).ok().filter(|v| (least..=MAX_SIZE).contains(v));
        match values {
            [a, b] if a == b => {
                size(*a).ok_or_else(|| format!("{name} = {values:?} is not within {least} to {MAX_SIZE}"))
            }
            _ => Err(format!("{name} = {values:?} is not supported: one number for height and width is")),
        }
    }

    /// `kernel_shape`, which must be there.
    pub fn kernel(self) -> Outcome<[usize; 2]> {
        let values = self.ints("kernel_shape").ok_or("has no kernel_shape")?;
        let size = |v: i64| usize::try_from(v).ok().filter(|v| (1..=MAX_SIZE).contains(v));
        match values {
            [a, b] => size(*a).zip(size(*b)).map(|(a, b)| [a, b]),
            _ => None,
        }
        .ok_or_else(|| format!("kernel_shape = {values:?} is not two sizes of 1 to {MAX_SIZE}"))
    }

    /// How a window of `kernel` moves over a map of `size`.
    pub fn window(self, kernel: [usize; 2], size: [usize; 2]) -> Outcome<Window> {
        let (stride, dilation) = (self.both("strides", 1)?, self.both("dilations", 1)?);
        let pads = self.ints("pads").unwrap_or(&[0; 4]);
        let mode = self.get("auto_pad").map_or(&b"NOTSET"[..], |a| &a.s);
        let pad = match mode {
            b"NOTSET" | b"" => match pads {
                [p, q, r, s] if [q, r, s] == [p; 3] => {
                    usize::try_from(*p).ok().filter(|p| *p <= MAX_SIZE).ok_or_else(|| format!("pads = {pads:?}"))?
                }
                _ => return Err(format!("pads = {pads:?} are not supported: the same on all four sides is")),
            },
            b"VALID" => 0,
            b"SAME_UPPER" | b"SAME_LOWER" => {
                let needed = |axis: usize| {
                    let reach = (kernel[axis] - 1) * dilation + 1;
                    ((size[axis].div_ceil(stride) - 1) * stride + reach).saturating_sub(size[axis])
                };
                let (h, w) = (needed(0), needed(1));
                if h != w || h % 2 != 0 {
                    let why = "needs padding that is not the same on all four sides";
                    return Err(format!("auto_pad of a window {kernel:?} at stride {stride} on {size:?} {why}"));
                }
                h / 2
            }
            other => return Err(format!("auto_pad = {} is not supported", String::from_utf8_lossy(other))),
        };
        let reach = |axis: usize| (kernel[axis] - 1) * dilation + 1;
        if let Some(axis) = [0, 1].into_iter().find(|&i| size[i] + 2 * pad < reach(i)) {
            let reach = reach(axis);
            return Err(format!("a window of {reach} does not fit in {} with padding {pad}", size[axis]));
        }
        if self.int("ceil_mode", 0) != 0 && [0, 1].into_iter().any(|i| (size[i] + 2 * pad - reach(i)) % stride != 0) {
            return Err("ceil_mode makes a window reach over the edge, which is not supported".into());
        }
        Ok(Window { stride, pad, dilation })
    }
}
