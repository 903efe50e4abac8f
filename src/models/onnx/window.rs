//! How a window moves over a map.

use super::attributes::Attributes;
use super::{MAX_SIZE, Outcome};

/// Numbers along height and width; padding on top, left, bottom and right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub pad: [usize; 4],
    pub dilation: [usize; 2],
    /// Whether a last window that reaches over the edge counts.
    pub ceil: bool,
}

impl Attributes<'_> {
    /// Two numbers, 1 if the attribute is absent.
    fn pair(self, name: &str) -> Outcome<[usize; 2]> {
        let Some(values) = self.ints(name) else { return Ok([1, 1]) };
        let size = |v: i64| usize::try_from(v).ok().filter(|v| (1..=MAX_SIZE).contains(v));
        match values {
            [a, b] => size(*a).zip(size(*b)).map(|(a, b)| [a, b]),
            [_] | [_, _, _] => return Err(format!("{name} = {values:?}: windows of two dimensions are supported")),
            _ => None,
        }
        .ok_or_else(|| format!("{name} = {values:?} is not two numbers of 1 to {MAX_SIZE}"))
    }

    /// `kernel_shape`, which must be there.
    pub fn kernel(self) -> Outcome<[usize; 2]> {
        self.ints("kernel_shape").ok_or("has no kernel_shape")?;
        self.pair("kernel_shape")
    }

    /// How a window of `kernel` moves over a map of `size`.
    pub fn window(self, kernel: [usize; 2], size: [usize; 2]) -> Outcome<Window> {
        let (stride, dilation) = (self.pair("strides")?, self.pair("dilations")?);
        let reach = [0, 1].map(|i| (kernel[i] - 1) * dilation[i] + 1);
        let pads = self.ints("pads").unwrap_or(&[0; 4]);
        let mode = self.get("auto_pad").map_or(&b"NOTSET"[..], |a| &a.s);
        let pad = match mode {
            b"NOTSET" | b"" => {
                let wrong = || format!("pads = {pads:?} are not four numbers of 0 to {MAX_SIZE}");
                let all: Option<Vec<usize>> =
                    pads.iter().map(|&p| usize::try_from(p).ok().filter(|p| *p <= MAX_SIZE)).collect();
                <[usize; 4]>::try_from(all.ok_or_else(wrong)?).map_err(|_| wrong())?
            }
            b"VALID" => [0; 4],
            b"SAME_UPPER" | b"SAME_LOWER" => {
                let mut pad = [0; 4];
                for i in [0, 1] {
                    let needed = ((size[i].div_ceil(stride[i]) - 1) * stride[i] + reach[i]).saturating_sub(size[i]);
                    let less = needed / 2;
                    (pad[i], pad[i + 2]) =
                        if mode == b"SAME_UPPER" { (less, needed - less) } else { (needed - less, less) };
                }
                pad
            }
            other => return Err(format!("auto_pad = {} is not supported", String::from_utf8_lossy(other))),
        };
        let padded = [0, 1].map(|i| size[i] + pad[i] + pad[i + 2]);
        if let Some(i) = [0, 1].into_iter().find(|&i| padded[i] < reach[i]) {
            let (reach, before, after) = (reach[i], pad[i], pad[i + 2]);
            return Err(format!("a window of {reach} does not fit in {} with padding {before} and {after}", size[i]));
        }
        let uneven = [0, 1].into_iter().any(|i| (padded[i] - reach[i]) % stride[i] != 0);
        Ok(Window { kernel, stride, pad, dilation, ceil: self.int("ceil_mode", 0) != 0 && uneven })
    }
}

impl Window {
    /// Adds `more` padding on top, left, bottom and right.
    pub fn padded(mut self, more: [usize; 4]) -> Self {
        self.pad.iter_mut().zip(more).for_each(|(p, m)| *p += m);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::onnx::{AttributeProto, NodeProto};

    fn pad_of(mode: &str, kernel: i64, stride: i64, size: usize) -> [usize; 4] {
        let strides = AttributeProto { name: "strides".into(), ints: vec![stride; 2], ..Default::default() };
        let auto = AttributeProto { name: "auto_pad".into(), s: mode.into(), ..Default::default() };
        let node = NodeProto { attribute: vec![strides, auto], ..Default::default() };
        Attributes(&node).window([kernel as usize; 2], [size, size + 1]).unwrap().pad
    }

    /// TensorFlow's rule: the odd pixel goes to the end, or with `SAME_LOWER` to the front.
    #[test]
    fn automatic_padding() {
        assert_eq!(pad_of("SAME_UPPER", 3, 2, 8), [0, 1, 1, 1]);
        assert_eq!(pad_of("SAME_LOWER", 3, 2, 8), [1, 1, 0, 1]);
        assert_eq!(pad_of("SAME_UPPER", 2, 1, 8), [0, 0, 1, 1]);
        assert_eq!(pad_of("SAME_UPPER", 1, 2, 8), [0; 4]);
        assert_eq!(pad_of("VALID", 3, 2, 8), [0; 4]);
    }
}
