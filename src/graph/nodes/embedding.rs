//! Rows of a table by label.

use super::super::Graph;
use super::super::run::Run;
use super::extent::first;
use super::{Kind, Outcome};
use crate::Result;
use crate::autograd::Var;
use crate::ops::embedding::embedding;
use crate::tensor::Shape;
use serde::{Deserialize, Serialize};

/// Gives row `label` of `table` `[classes, width]` for each sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    pub table: String,
}

impl Kind for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn tensors(&self) -> Vec<&String> {
        vec![&self.table]
    }
    fn shape(&self, graph: &Graph, n: usize, x: &[Shape]) -> Outcome<Shape> {
        let (x, table) = (first(x)?, graph.tensor(&self.table)?);
        match (&x[..], &table[..]) {
            (&[_], &[_, width]) => Ok([n, width].into()),
            _ => Err(format!("table {table} of labels {x}")),
        }
    }
    fn run(&self, run: &mut Run, x: &[Var]) -> Result<Var> {
        let table = run.param(&self.table)?;
        embedding(run.tape, &table, &x[0].value)
    }
}
