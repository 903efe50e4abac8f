//! Change of a sample's shape.

use super::super::Graph;
use super::super::deployed::{Deployment, OnnxNode, ReshapeStep, Step};
use super::super::run::Run;
use super::extent::first;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::reshape::reshape;
use crate::tensor::Shape;
use crate::tensor::onnx::Attribute;
use serde::{Deserialize, Serialize};

/// Gives each sample another shape; the batch dimension stays. Elements keep their order, channels last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reshape {
    pub shape: Vec<usize>,
}

impl Kind for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }
    fn moves_codes(&self) -> bool {
        true
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let x = first(x)?;
        let elements = self.shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        let sample = x.get(1..).unwrap_or(&[]);
        if elements != Some(sample.iter().product()) || !(1..=3).contains(&self.shape.len()) {
            return Err(format!("{sample:?} cannot become {:?}", self.shape));
        }
        Ok(Shape::new(&[&[x[0]], &self.shape[..]].concat()))
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let n = x[0].shape()[0];
        reshape(run.tape, &x[0], Shape::new(&[&[n], &self.shape[..]].concat()))
    }
    fn prepare(&self, _: &Deployment) -> Result<Box<dyn Step>> {
        Ok(Box::new(ReshapeStep { sample: self.shape.clone() }))
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let axes = |order: [i64; 4]| [("perm", Attribute::Ints(order.to_vec()))];
        let mut x = node.inputs[0].clone();
        if node.shapes[0].len() == 3 {
            x = node.part("Transpose", &[&x], "channels_last", &axes([0, 2, 3, 1]));
        }
        let sizes: Vec<i64> = std::iter::once(-1).chain(self.shape.iter().map(|&d| d as i64)).collect();
        let name = format!("{}/shape", node.name);
        let sizes = node.writer.int64s(name, &sizes);
        let y = node.part("Reshape", &[&x, &sizes], "reshaped", &[]);
        Ok(match self.shape.len() {
            3 => node.part("Transpose", &[&y], "channels_first", &axes([0, 3, 1, 2])),
            _ => y,
        })
    }
}
