//! Evaluates nodes whose inputs are all constant: shapes as exporters compute them, and weights that are computed from others.
//!
//! Semantics are those of the ONNX operators of the same names. Integers may depend on the batch size (see [`Size`]). A tensor
//! whose elements are all alike is held as one value, so that filled tensors take no memory.

mod arithmetic;
mod moving;
mod reducing;

pub use moving::{parts, permutation};

use super::Outcome;
use super::attributes::Attributes;
use super::constant;
use super::host::{Budget, Host, Kind, MAX_INTEGERS, Size, Values, count, slice};
use crate::tensor::onnx::NodeProto;
use std::rc::Rc;

/// The inputs of a node; `None` where an optional one is absent.
pub struct Inputs<'a>(pub &'a [Option<Rc<Host>>]);

impl Inputs<'_> {
    /// The `i`-th input, if it is there.
    fn maybe(&self, i: usize) -> Option<&Host> {
        self.0.get(i).and_then(Option::as_deref)
    }
    fn at(&self, i: usize) -> Outcome<&Host> {
        self.maybe(i).ok_or_else(|| format!("has no input {i}"))
    }
    /// The `i`-th input as integers, or those of attribute `name` in older operator sets.
    fn list(&self, attributes: Attributes, i: usize, name: &str) -> Outcome<Option<Vec<i64>>> {
        match self.maybe(i) {
            Some(t) => Ok(Some(t.numbers()?)),
            None => Ok(attributes.ints(name).map(<[i64]>::to_vec)),
        }
    }
}

/// Operators that are evaluated. `Shape` and `Size` need no values of their input.
const OPERATORS: [&str; 51] = [
    "Abs",
    "Add",
    "And",
    "Cast",
    "CastLike",
    "Ceil",
    "Clip",
    "Concat",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Exp",
    "Expand",
    "Flatten",
    "Floor",
    "Gather",
    "Greater",
    "GreaterOrEqual",
    "Identity",
    "Less",
    "LessOrEqual",
    "Log",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Pow",
    "Range",
    "Reciprocal",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Relu",
    "Reshape",
    "Round",
    "Slice",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// Whether nodes of `op` can be evaluated.
pub fn knows(op: &str) -> bool {
    OPERATORS.contains(&op)
}

/// The outputs of `node`, whose inputs are constant and whose operator is known.
pub fn evaluate(node: &NodeProto, opset: i64, inputs: &Inputs, budget: &mut Budget) -> Outcome<Vec<Host>> {
    let attributes = Attributes(node);
    let op = &node.op_type[..];
    let x = inputs.at(0)?;
    let one = match op {
        "Identity" => x.clone(),
        "Cast" => cast(x, Kind::of(attributes.int("to", 0) as i32)?)?,
        "CastLike" => cast(x, inputs.at(1)?.kind)?,
        "Concat" => moving::concat(inputs, attributes.int("axis", 0), budget)?,
        "ConstantOfShape" => filled(x, attributes)?,
        "Expand" => moving::expand(x, &sizes_of(inputs.at(1)?)?, budget)?,
        "Flatten" => moving::flatten(x, attributes.int("axis", 1))?,
        "Gather" => moving::gather(x, inputs.at(1)?, attributes.int("axis", 0), budget)?,
        "Range" => range(inputs, budget)?,
        "Reshape" => moving::reshape(x, &inputs.at(1)?.numbers()?, attributes.int("allowzero", 0) != 0)?,
        "Slice" => moving::sliced(x, inputs, attributes, budget)?,
        "Split" => return moving::split(node, opset, inputs, budget),
        "Squeeze" => moving::squeeze(x, inputs.list(attributes, 1, "axes")?.as_deref())?,
        "Tile" => moving::tile(x, &inputs.at(1)?.numbers()?, budget)?,
        "Transpose" => moving::transpose(x, attributes.ints("perm"), budget)?,
        "Unsqueeze" => moving::unsqueeze(x, &inputs.list(attributes, 1, "axes")?.ok_or("has no axes")?)?,
        "Where" => arithmetic::choose(x, inputs.at(1)?, inputs.at(2)?, budget)?,
        "Clip" => arithmetic::clip(x, inputs, attributes, budget)?,
        "Max" | "Min" => arithmetic::extreme(op, inputs, budget)?,
        _ if op.starts_with("Reduce") => {
            reducing::reduce(op, x, inputs.list(attributes, 1, "axes")?, attributes, budget)?
        }
        _ if inputs.0.len() == 1 => arithmetic::unary(op, x, budget)?,
        "Mod" if attributes.int("fmod", 0) != 0 => arithmetic::binary("Fmod", x, inputs.at(1)?, budget)?,
        _ => arithmetic::binary(op, x, inputs.at(1)?, budget)?,
    };
    Ok(vec![one])
}

/// Dimensions, none of which may depend on the batch.
fn sizes_of(t: &Host) -> Outcome<Vec<usize>> {
    let size = |v: i64| usize::try_from(v).map_err(|_| format!("asks for a dimension of {v}"));
    t.numbers()?.into_iter().map(size).collect()
}

/// The values of `x` as `kind`. Floats are cut towards 0 where integers are wanted.
pub fn cast(x: &Host, kind: Kind) -> Outcome<Host> {
    let truth = |yes: bool| Size::Fixed(yes.into());
    let values = match &x.values {
        Values::Floats(v) if kind.is_float() => Values::Floats(v.iter().map(|&v| kind.round(v.into())).collect()),
        Values::Integers(v) if kind.is_float() => {
            let all = v.iter().map(|v| Ok(kind.round(v.number()? as f64)));
            Values::Floats(all.collect::<Outcome<_>>()?)
        }
        Values::Floats(v) if v.len() > MAX_INTEGERS => {
            return Err(format!("makes {} integers; at most {MAX_INTEGERS} are possible", v.len()));
        }
        Values::Floats(v) if kind == Kind::Bool => Values::Integers(v.iter().map(|v| truth(*v != 0.0)).collect()),
        Values::Floats(v) => Values::Integers(v.iter().map(|v| Size::Fixed(*v as i64)).collect()),
        Values::Integers(v) if kind == Kind::Bool => {
            Values::Integers(v.iter().map(|v| truth(!matches!(v, Size::Fixed(0)))).collect())
        }
        Values::Integers(v) => Values::Integers(v.clone()),
    };
    Ok(Host { kind, dims: x.dims.clone(), values })
}

/// A tensor of the given shape whose elements are all alike.
fn filled(shape: &Host, attributes: Attributes) -> Outcome<Host> {
    let dims = sizes_of(shape)?;
    count(&dims)?;
    let one = match attributes.get("value").and_then(|a| a.t.as_ref()) {
        Some(t) => constant::decode(t, None)?,
        None => Host::floats(Kind::F32, vec![1], vec![0.0]),
    };
    if one.elements()? != 1 {
        return Err("is not made of one number".into());
    }
    Ok(if dims.contains(&0) { empty(one.kind, dims) } else { Host { dims, ..one } })
}

fn empty(kind: Kind, dims: Vec<usize>) -> Host {
    let values = if kind.is_float() { Values::Floats(Vec::new()) } else { Values::Integers(Vec::new()) };
    Host { kind, dims, values }
}

/// `start`, `start + delta` .. below `limit`.
fn range(inputs: &Inputs, budget: &mut Budget) -> Outcome<Host> {
    let [start, limit, delta] = [inputs.at(0)?, inputs.at(1)?, inputs.at(2)?];
    if start.kind.is_float() {
        return Err("of floats is not supported".into());
    }
    let number = |t: &Host| match t.numbers()?[..] {
        [v] => Ok(v),
        _ => Err("takes one number each".to_string()),
    };
    let (start, limit, delta) = (number(start)?, number(limit)?, number(delta)?);
    let span = if delta > 0 { limit.saturating_sub(start) } else { start.saturating_sub(limit) };
    let n = match delta {
        0 => return Err("counts in steps of 0".into()),
        _ => (span.max(0) as u64).div_ceil(delta.unsigned_abs()),
    };
    if n > MAX_INTEGERS as u64 {
        return Err(format!("makes {n} integers; at most {MAX_INTEGERS} are possible"));
    }
    budget.take(n as usize)?;
    Ok(Host::fixed(&(0..n as i64).map(|i| start + i * delta).collect::<Vec<_>>()))
}

/// The part `start..end` of a list of dimensions, as `Shape` counts them.
pub fn shape_of(mut dims: Vec<Size>, attributes: Attributes) -> Outcome<Host> {
    let (first, many) = slice(dims.len(), attributes.int("start", 0), attributes.int("end", i64::MAX), 1)?;
    dims.truncate(first + many);
    Ok(Host::list(dims.split_off(first)))
}

/// Product of a list of dimensions.
pub fn product(dims: &[Size]) -> Outcome<Size> {
    dims.iter().try_fold(Size::Fixed(1), |a, &d| reducing::integer("ReduceProd", a, d))
}

#[cfg(test)]
mod tests;
