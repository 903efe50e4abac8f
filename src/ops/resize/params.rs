//! Sizes and coordinates of a resize.

use serde::{Deserialize, Serialize};

/// Largest height and width.
const LIMIT: usize = 1 << 16;

/// How a source pixel is chosen or mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeMode {
    /// One pixel, by its rounded coordinates.
    Nearest(Rounding),
    /// Two pixels per axis, by their distances.
    Linear,
}

/// How a coordinate becomes a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the nearest, halves down.
    RoundPreferFloor,
    /// To the nearest, halves up.
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// Where pixel `o` of the output lies on the axis of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Coordinates {
    /// `(o + 1/2) / scale - 1/2`.
    HalfPixel,
    /// The same, but 0 if the output has one pixel.
    PytorchHalfPixel,
    /// `o (in - 1) / (out - 1)`, 0 if the output has one pixel.
    AlignCorners,
    /// `o / scale`.
    Asymmetric,
}

/// A resize of height and width, as the operator Resize of the ONNX standard. Upsample and Resize before version 11 are
/// [`Coordinates::Asymmetric`]. If nearest, they round by [`Rounding::Floor`], or by [`Rounding::Ceil`] where they shrink.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResizeParams {
    /// Height and width of the output.
    pub size: [usize; 2],
    pub mode: ResizeMode,
    pub coordinates: Coordinates,
    /// What coordinates are divided by: the factors that were given, or output over input if sizes were.
    pub scales: [f32; 2],
}

impl ResizeParams {
    /// From the size of the output.
    pub fn to_size(input: [usize; 2], size: [usize; 2], mode: ResizeMode, coordinates: Coordinates) -> Self {
        let scales = std::array::from_fn(|i| size[i] as f32 / input[i] as f32);
        Self { size, mode, coordinates, scales }
    }

    /// From factors: sizes are `input * factor`, rounded down.
    pub fn by_scales(input: [usize; 2], scales: [f32; 2], mode: ResizeMode, coordinates: Coordinates) -> Self {
        // A factor without meaning gives a size without meaning, which `check` refuses.
        let size = std::array::from_fn(|i| (input[i] as f32 * scales[i]).floor() as usize);
        Self { size, mode, coordinates, scales }
    }

    /// Errors unless an image of `[h, w]` pixels can be resized: sizes from 1 to 65536, scales finite and above 0.
    pub fn check(&self, [h, w]: [usize; 2]) -> std::result::Result<(), String> {
        let ([oh, ow], [sh, sw]) = (self.size, self.scales);
        let sized = [h, w, oh, ow].iter().all(|d| (1..=LIMIT).contains(d));
        if sized && [sh, sw].iter().all(|s| s.is_finite() && *s > 0.0) {
            return Ok(());
        }
        Err(format!(
            "{h}x{w} to {oh}x{ow} by scales {sh} and {sw}; sizes must be 1 to {LIMIT}, scales finite and above 0"
        ))
    }

    /// Both axes for an image of `[h, w]` pixels. An image that keeps its size is copied, whatever the scales say.
    pub(super) fn axes(&self, [h, w]: [usize; 2]) -> [Axis; 2] {
        let scales = if self.size == [h, w] { [1.0; 2] } else { self.scales };
        let axis = |i: usize, size: usize| Axis { input: size as i32, output: self.size[i] as i32, scale: scales[i] };
        [axis(0, h), axis(1, w)]
    }
}

/// One axis; mirrors `Axis` in `kernels/resize.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Axis {
    input: i32,
    pub output: i32,
    scale: f32,
}

/// The two pixels of the input behind one of the output, with their weights. Equal pixels weigh one half each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Taps {
    pub at: [usize; 2],
    pub weights: [f32; 2],
}

impl Axis {
    /// The taps of every pixel of the output. Coordinates are f32 whatever the dtype of the pixels, as in ONNX Runtime.
    pub fn taps(self, mode: ResizeMode, coordinates: Coordinates) -> Vec<Taps> {
        (0..self.output).map(|o| self.tap(o as f32, mode, coordinates)).collect()
    }

    fn tap(self, o: f32, mode: ResizeMode, coordinates: Coordinates) -> Taps {
        let at = self.source(o, coordinates);
        let last = (self.input - 1) as f32;
        let ResizeMode::Nearest(rounding) = mode else {
            let at = at.clamp(0.0, last);
            let first = at.floor();
            let second = (first + 1.0).min(last);
            let weights = if first == second { [0.5; 2] } else { [second - at, at - first] };
            return Taps { at: [first as usize, second as usize], weights };
        };
        let whole = match rounding {
            Rounding::RoundPreferFloor if at == at.trunc() + 0.5 => at.floor(),
            Rounding::RoundPreferFloor | Rounding::RoundPreferCeil => at.round(),
            Rounding::Floor => at.floor(),
            Rounding::Ceil => at.ceil(),
        };
        Taps { at: [whole.clamp(0.0, last) as usize; 2], weights: [0.5; 2] }
    }

    fn source(self, o: f32, coordinates: Coordinates) -> f32 {
        let Self { input, output, scale } = self;
        if scale == 1.0 {
            return o;
        }
        match coordinates {
            Coordinates::PytorchHalfPixel | Coordinates::AlignCorners if output == 1 => 0.0,
            Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            Coordinates::AlignCorners => o * (input - 1) as f32 / (output - 1) as f32,
            Coordinates::Asymmetric => o / scale,
        }
    }
}

/// The codes by which `kernels/resize.cu` knows mode and coordinates.
pub(super) fn codes(mode: ResizeMode, coordinates: Coordinates) -> [i32; 2] {
    let mode = match mode {
        ResizeMode::Linear => 0,
        ResizeMode::Nearest(Rounding::RoundPreferFloor) => 1,
        ResizeMode::Nearest(Rounding::RoundPreferCeil) => 2,
        ResizeMode::Nearest(Rounding::Floor) => 3,
        ResizeMode::Nearest(Rounding::Ceil) => 4,
    };
    let coordinates = match coordinates {
        Coordinates::HalfPixel => 0,
        Coordinates::PytorchHalfPixel => 1,
        Coordinates::AlignCorners => 2,
        Coordinates::Asymmetric => 3,
    };
    [mode, coordinates]
}
