//! Another height and width: nearest or bilinear.

use super::super::Graph;
use super::super::deployed::{CodesStep, Deployment, OnnxNode, Step};
use super::super::run::Run;
use super::extent::image;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::resize::{Coordinates, ResizeMode, ResizeParams, Rounding, resize, resize_codes};
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Resizes height and width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    pub params: ResizeParams,
}

impl Kind for Resize {
    fn name(&self) -> &'static str {
        "resize"
    }
    fn moves_codes(&self) -> bool {
        matches!(self.params.mode, ResizeMode::Nearest(_))
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let [n, h, w, c] = image(x)?;
        self.params.check([h, w])?;
        Ok([n, self.params.size[0], self.params.size[1], c].into())
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        resize(run.tape, &x[0], self.params)
    }
    fn prepare(&self, at: &Deployment) -> Result<Box<dyn Step>> {
        let params = self.params;
        match params.mode {
            ResizeMode::Nearest(_) => CodesStep::boxed(at, move |codes| resize_codes(codes, params)),
            ResizeMode::Linear => at.on_values(),
        }
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let ResizeParams { size, mode, coordinates, scales } = self.params;
        let &[h, w, _] = node.shapes[0] else { return Err("resizes a value that is no map".into()) };
        let x = node.inputs[0].clone();
        let own = ResizeParams::to_size([h, w], size, mode, coordinates).scales;
        // Where sizes give the same scales they are written, since they round nothing.
        let (by_scale, by_size) = if own == scales {
            (String::new(), node.int64s("sizes", &size.map(|d| d as i64)))
        } else {
            (node.floats("scales", &scales), String::new())
        };
        let text = |s: &str| Attribute::Text(s.into());
        let coordinates = match coordinates {
            Coordinates::HalfPixel => "half_pixel",
            Coordinates::PytorchHalfPixel => "pytorch_half_pixel",
            Coordinates::AlignCorners => "align_corners",
            Coordinates::Asymmetric => "asymmetric",
        };
        let axes = Attribute::Ints(vec![2, 3]);
        let mut all = vec![("coordinate_transformation_mode", text(coordinates)), ("axes", axes)];
        all.push(match mode {
            ResizeMode::Linear => ("mode", text("linear")),
            ResizeMode::Nearest(_) => ("mode", text("nearest")),
        });
        if let ResizeMode::Nearest(rounding) = mode {
            let rounding = match rounding {
                Rounding::RoundPreferFloor => "round_prefer_floor",
                Rounding::RoundPreferCeil => "round_prefer_ceil",
                Rounding::Floor => "floor",
                Rounding::Ceil => "ceil",
            };
            all.push(("nearest_mode", text(rounding)));
        }
        Ok(node.output("Resize", &[&x, "", &by_scale, &by_size], &all))
    }
}
