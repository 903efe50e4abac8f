//! Element by element, with ONNX's broadcasting.

use super::super::Outcome;
use super::super::attributes::Attributes;
use super::super::host::{Budget, Host, Kind, MAX_INTEGERS, Size, Values, Walk, count, strides};
use super::{Inputs, cast};

/// Shape of two tensors brought together.
fn broadcast(a: &[usize], b: &[usize]) -> Outcome<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    let dims = (0..rank).map(|i| match (at(a, i), at(b, i)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => Err(format!("shapes {a:?} and {b:?} do not go together")),
    });
    dims.collect()
}

/// Offsets into `t` for each element of `dims`, which it is broadcast to.
pub fn spread(t: &Host, dims: &[usize]) -> Outcome<Walk> {
    let missing = dims.len() - t.dims.len();
    let own = strides(&t.dims);
    let step = |i: usize| match i.checked_sub(missing) {
        Some(i) if t.dims[i] != 1 && !t.uniform() => own[i],
        _ => 0,
    };
    Walk::new(dims, (0..dims.len()).map(step).collect(), 0)
}

/// `op` of the elements of both, at `dims`; once, if both are held as one value.
fn joined<A: Copy, B: Copy, T>(
    [a, b]: [&Host; 2],
    dims: &[usize],
    (x, y): (&[A], &[B]),
    budget: &mut Budget,
    op: impl Fn(A, B) -> Outcome<T>,
) -> Outcome<Vec<T>> {
    if count(dims)? == 0 {
        return Ok(Vec::new());
    }
    if a.uniform() && b.uniform() {
        return Ok(vec![op(x[0], y[0])?]);
    }
    budget.take(count(dims)?)?;
    spread(a, dims)?.zip(spread(b, dims)?).map(|(i, j)| op(x[i], y[j])).collect()
}

fn integers(n: usize) -> Outcome<()> {
    if n > MAX_INTEGERS {
        return Err(format!("makes {n} integers; at most {MAX_INTEGERS} are possible"));
    }
    Ok(())
}

/// An arithmetic operator, a comparison, or one of truth values.
pub fn binary(op: &str, a: &Host, b: &Host, budget: &mut Budget) -> Outcome<Host> {
    let dims = broadcast(&a.dims, &b.dims)?;
    let compares = ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or"].contains(&op);
    let values = match (&a.values, &b.values) {
        (Values::Floats(x), Values::Floats(y)) if compares => {
            integers(count(&dims)?)?;
            let truth = |x: f32, y: f32| Ok(Size::Fixed(compared(op, x.partial_cmp(&y))?.into()));
            Values::Integers(joined([a, b], &dims, (x, y), budget, truth)?)
        }
        (Values::Floats(x), Values::Floats(y)) => {
            let kind = a.kind;
            let f = |x: f32, y: f32| Ok(kind.round(real(op, x.into(), y.into())?));
            Values::Floats(joined([a, b], &dims, (x, y), budget, f)?)
        }
        (Values::Integers(x), Values::Integers(y)) => {
            if !(a.uniform() && b.uniform()) {
                integers(count(&dims)?)?;
            }
            Values::Integers(joined([a, b], &dims, (x, y), budget, |x, y| size(op, x, y))?)
        }
        // The exponent may be of another type than the base.
        (Values::Floats(_), Values::Integers(_)) if op == "Pow" => return binary(op, a, &cast(b, a.kind)?, budget),
        _ => return Err("joins floats and integers".into()),
    };
    Ok(Host { kind: if compares { Kind::Bool } else { a.kind }, dims, values })
}

fn compared(op: &str, order: Option<std::cmp::Ordering>) -> Outcome<bool> {
    let is = |f: fn(std::cmp::Ordering) -> bool| order.is_some_and(f);
    Ok(match op {
        "Equal" => is(std::cmp::Ordering::is_eq),
        "Less" => is(std::cmp::Ordering::is_lt),
        "LessOrEqual" => is(std::cmp::Ordering::is_le),
        "Greater" => is(std::cmp::Ordering::is_gt),
        "GreaterOrEqual" => is(std::cmp::Ordering::is_ge),
        _ => return Err("is not defined for numbers".into()),
    })
}

fn real(op: &str, x: f64, y: f64) -> Outcome<f64> {
    Ok(match op {
        "Add" => x + y,
        "Sub" => x - y,
        "Mul" => x * y,
        "Div" => x / y,
        "Pow" => x.powf(y),
        "Fmod" => x % y,
        "Max" => x.max(y),
        "Min" => x.min(y),
        _ => return Err("of floats is not supported".into()),
    })
}

fn size(op: &str, x: Size, y: Size) -> Outcome<Size> {
    use Size::{Batch, Fixed};
    let uncounted = || "makes a number that cannot be counted".to_string();
    let batch = |k: Option<i64>| k.map(|k| if k == 0 { Fixed(0) } else { Batch(k) }).ok_or_else(uncounted);
    let (a, b) = match (op, x, y) {
        (_, Fixed(a), Fixed(b)) => (a, b),
        ("Add", Batch(a), Batch(b)) => return batch(a.checked_add(b)),
        ("Sub", Batch(a), Batch(b)) => return batch(a.checked_sub(b)),
        ("Add" | "Sub", v @ Batch(_), Fixed(0)) | ("Add", Fixed(0), v @ Batch(_)) => return Ok(v),
        ("Mul", Batch(a), Fixed(b)) | ("Mul", Fixed(a), Batch(b)) => return batch(a.checked_mul(b)),
        ("Div", Batch(a), Fixed(b)) if b != 0 && a.checked_rem(b) == Some(0) => return batch(a.checked_div(b)),
        ("Div", Batch(a), Batch(b)) if b != 0 && a.checked_rem(b) == Some(0) => return Ok(Fixed(a / b)),
        ("Equal", Batch(a), Batch(b)) => return Ok(Fixed((a == b).into())),
        // A batch has one image at least.
        ("Equal", Batch(a), Fixed(v)) | ("Equal", Fixed(v), Batch(a)) if a > 0 && v < a => return Ok(Fixed(0)),
        ("Max", v @ Batch(a), Fixed(b)) | ("Max", Fixed(b), v @ Batch(a)) if b <= a => return Ok(v),
        _ => return Err("depends on the batch size".into()),
    };
    let found = match op {
        "Add" => a.checked_add(b),
        "Sub" => a.checked_sub(b),
        "Mul" => a.checked_mul(b),
        "Div" => a.checked_div(b),
        // The remainder has the sign of the divisor; of the dividend with `fmod`.
        "Mod" => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        "Fmod" => a.checked_rem(b),
        "Pow" => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
        "Max" => Some(a.max(b)),
        "Min" => Some(a.min(b)),
        "And" => Some((a != 0 && b != 0).into()),
        "Or" => Some((a != 0 || b != 0).into()),
        _ => Some(compared(op, Some(a.cmp(&b)))?.into()),
    };
    found.map(Fixed).ok_or_else(uncounted)
}

/// An operator of one input.
pub fn unary(op: &str, x: &Host, budget: &mut Budget) -> Outcome<Host> {
    budget.take(x.held())?;
    let values = match &x.values {
        Values::Floats(v) => {
            let f: fn(f64) -> f64 = match op {
                "Abs" => f64::abs,
                "Ceil" => f64::ceil,
                "Exp" => f64::exp,
                "Floor" => f64::floor,
                "Log" => f64::ln,
                "Neg" => |v| -v,
                "Reciprocal" => |v| 1.0 / v,
                "Relu" => |v| v.max(0.0),
                "Round" => f64::round_ties_even,
                "Sqrt" => f64::sqrt,
                _ => return Err("of floats is not supported".into()),
            };
            Values::Floats(v.iter().map(|&v| x.kind.round(f(v.into()))).collect())
        }
        Values::Integers(v) => {
            let f = |v: &Size| match (op, *v) {
                ("Neg", Size::Batch(k)) => k.checked_neg().map(Size::Batch),
                ("Neg", Size::Fixed(v)) => v.checked_neg().map(Size::Fixed),
                ("Abs", Size::Fixed(v)) => v.checked_abs().map(Size::Fixed),
                ("Not", Size::Fixed(v)) => Some(Size::Fixed((v == 0).into())),
                ("Relu", Size::Fixed(v)) => Some(Size::Fixed(v.max(0))),
                _ => None,
            };
            let all: Option<Vec<Size>> = v.iter().map(f).collect();
            Values::Integers(all.ok_or("of these integers is not supported")?)
        }
    };
    Ok(Host { values, ..x.clone() })
}

/// The first value where the condition holds, else the second.
pub fn choose(condition: &Host, a: &Host, b: &Host, budget: &mut Budget) -> Outcome<Host> {
    let dims = broadcast(&broadcast(&condition.dims, &a.dims)?, &b.dims)?;
    let Values::Integers(truth) = &condition.values else { return Err("has a condition of floats".into()) };
    let n = count(&dims)?;
    if n > MAX_INTEGERS && !truth.iter().all(|t| *t == truth[0]) {
        return Err(format!("chooses among {n} numbers; at most {MAX_INTEGERS} are possible"));
    }
    if a.kind != b.kind {
        return Err("chooses among values of different types".into());
    }
    let truth: Vec<bool> = truth.iter().map(|t| Ok(t.number()? != 0)).collect::<Outcome<_>>()?;
    if truth.is_empty() || n == 0 {
        return Err("chooses among no values".into());
    }
    if truth.iter().all(|t| *t == truth[0]) {
        let chosen = if truth[0] { a } else { b };
        return chosen.picked(dims.clone(), spread(chosen, &dims)?, budget);
    }
    budget.take(n)?;
    let at = spread(condition, &dims)?.zip(spread(a, &dims)?.zip(spread(b, &dims)?));
    let values = match (&a.values, &b.values) {
        (Values::Floats(x), Values::Floats(y)) => {
            Values::Floats(at.map(|(c, (i, j))| if truth[c] { x[i] } else { y[j] }).collect())
        }
        (Values::Integers(x), Values::Integers(y)) => {
            Values::Integers(at.map(|(c, (i, j))| if truth[c] { x[i] } else { y[j] }).collect())
        }
        _ => return Err("joins floats and integers".into()),
    };
    Ok(Host { kind: a.kind, dims, values })
}

/// The largest or smallest of all inputs.
pub fn extreme(op: &str, inputs: &Inputs, budget: &mut Budget) -> Outcome<Host> {
    let mut found = inputs.at(0)?.clone();
    for i in 1..inputs.0.len() {
        found = binary(op, &found, inputs.at(i)?, budget)?;
    }
    Ok(found)
}

/// Cut off at both ends, which are inputs or, up to operator set 10, attributes.
pub fn clip(x: &Host, inputs: &Inputs, attributes: Attributes, budget: &mut Budget) -> Outcome<Host> {
    let mut found = x.clone();
    for (i, name, op) in [(1, "min", "Max"), (2, "max", "Min")] {
        let attribute = attributes.get(name).map(|a| Host::floats(x.kind, Vec::new(), vec![a.f]));
        if let Some(end) = inputs.maybe(i).or(attribute.as_ref()) {
            found = binary(op, &found, end, budget)?;
        }
    }
    Ok(found)
}
