//! Product of a map and one number per image and channel (squeeze and excitation, Hu et al. 2018).

use super::super::Graph;
use super::super::deployed::OnnxNode;
use super::super::run::Run;
use super::extent::image;
use super::{Arity, Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::gate::gate;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Multiplies the map `n h w c` by the gate `n c` (or `n 1 1 c`), which is the second input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {}

impl Kind for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }
    fn arity(&self) -> Arity {
        Arity::Exactly(2)
    }
    fn nonnegative(&self, inputs: bool) -> bool {
        inputs
    }
    fn shape(&self, _: &Graph, _: usize, x: &[Shape]) -> Outcome<Shape> {
        let ([n, _, _, c], map) = (image(x)?, x[0]);
        match x.get(1) {
            Some(g) if g[..] == [n, c] || g[..] == [n, 1, 1, c] => Ok(map),
            other => {
                let found = other.map_or("nothing".into(), Shape::to_string);
                Err(format!("a gate of {found} does not fit {map}: one value per image and channel is expected"))
            }
        }
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        gate(run.tape, &x[0], &x[1])
    }
    fn onnx(&self, node: &mut OnnxNode) -> Outcome<String> {
        let [x, mut g] = [node.inputs[0].clone(), node.inputs[1].clone()];
        if node.shapes[1].len() == 1 {
            let sizes = [-1, node.shapes[1][0] as i64, 1, 1];
            let sizes = node.int64s("sizes", &sizes);
            g = node.part("Reshape", &[&g, &sizes], "spread", &[]);
        }
        Ok(node.output("Mul", &[&x, &g], &[]))
    }
}
