//! The case table: shapes, tolerance, flops, bytes and gradient mode of an op stand once, and drive correctness tests,
//! gradient checks, benches and the op table.

pub mod inputs;
pub mod roof;
pub mod timing;

use crate::Result;
use crate::autograd::{Tape, Var};
use crate::tensor::Shape;

/// How an input of a case is filled.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Standard normal values times `scale`.
    Normal { scale: f64 },
    /// Uniform in `[low, high)`.
    Uniform { low: f64, high: f64 },
    /// Normal values kept at least `gap` away from every multiple of `step` (kinks of relu, rounding edges), so that
    /// central differences and different summation orders see the same branch.
    Away { scale: f64, step: f64, gap: f64 },
    /// Integer labels in `0..classes`, dtype I32.
    Labels { classes: usize },
    /// Given values.
    Values(Vec<f64>),
}

/// One input of a case.
#[derive(Clone, Debug)]
pub struct Input {
    pub shape: Shape,
    pub fill: Fill,
    /// Whether its gradient is computed and checked.
    pub grad: bool,
}

impl Input {
    /// Normal values, gradient wanted.
    pub fn grad(shape: impl Into<Shape>) -> Self {
        Self { shape: shape.into(), fill: Fill::Normal { scale: 1.0 }, grad: true }
    }
    /// Normal values, no gradient.
    pub fn plain(shape: impl Into<Shape>) -> Self {
        Self { grad: false, ..Self::grad(shape) }
    }
    /// I32 labels.
    pub fn labels(n: usize, classes: usize) -> Self {
        Self { shape: [n].into(), fill: Fill::Labels { classes }, grad: false }
    }
    pub fn fill(mut self, fill: Fill) -> Self {
        self.fill = fill;
        self
    }
}

/// What the gradients are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradCheck {
    /// f64 gradients against central differences, then f32 (CPU, emulator, GPU) against f64.
    Differences,
    /// A defined gradient that is not the derivative (straight-through): only f32 against f64; the op's own test holds
    /// the definition.
    Defined,
    /// No gradient.
    None,
}

/// The op under test: inputs in the order of [`Case::inputs`], any number of outputs.
pub type Run = Box<dyn Fn(&mut Tape, &[Var]) -> Result<Vec<Var>> + Send + Sync>;

/// One row.
pub struct Case {
    /// Unique within the op, e.g. `n4_h8_w8_c16`.
    pub name: String,
    pub inputs: Vec<Input>,
    pub run: Run,
    pub check: GradCheck,
    /// Longest chain of f32 additions behind one output or gradient element; the tolerance grows with its root.
    pub reduction: usize,
    /// Factor on the derived tolerance, with the reason in a comment where it is not 1.
    pub slack: f64,
    /// Unit roundoff of the operands: f32 unless a kernel multiplies in TF32 or BF16.
    pub epsilon: f64,
    /// Arithmetic operations of the forward pass.
    pub flops: f64,
    /// Bytes that the forward pass must move at least.
    pub bytes: f64,
    /// Whether this is a production shape: benched, and too large for the emulator.
    pub bench: bool,
}

impl Case {
    /// A case with reduction length 1, differences checked, nothing counted.
    pub fn new(
        name: impl Into<String>,
        inputs: Vec<Input>,
        run: impl Fn(&mut Tape, &[Var]) -> Result<Vec<Var>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            inputs,
            run: Box::new(run),
            check: GradCheck::Differences,
            reduction: 1,
            slack: 1.0,
            epsilon: f64::from(f32::EPSILON),
            flops: 0.0,
            bytes: 0.0,
            bench: false,
        }
    }
    pub fn check(mut self, check: GradCheck) -> Self {
        self.check = check;
        self
    }
    pub fn reduction(mut self, length: usize) -> Self {
        self.reduction = length.max(1);
        self
    }
    pub fn slack(mut self, factor: f64) -> Self {
        self.slack = factor;
        self
    }
    pub fn epsilon(mut self, epsilon: f64) -> Self {
        self.epsilon = epsilon;
        self
    }
    pub fn cost(mut self, flops: f64, bytes: f64) -> Self {
        (self.flops, self.bytes) = (flops, bytes);
        self
    }
    pub fn bench(mut self) -> Self {
        self.bench = true;
        self
    }
    /// Largest allowed difference from the oracle, relative to the largest magnitude in the compared tensor.
    pub fn tolerance(&self) -> f64 {
        self.slack * self.epsilon * (4.0 + 2.0 * (self.reduction as f64).sqrt())
    }
}
