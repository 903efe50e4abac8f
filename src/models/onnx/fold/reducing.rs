//! Reductions over axes.

use super::super::Outcome;
use super::super::attributes::Attributes;
use super::super::host::{Budget, Host, Size, Values, axes, count, strides};

/// Reduces the axes of `list`, or all of them. Floats are added up in f64.
pub fn reduce(
    op: &str,
    x: &Host,
    list: Option<Vec<i64>>,
    attributes: Attributes,
    budget: &mut Budget,
) -> Outcome<Host> {
    let rank = x.dims.len();
    let over = match list {
        Some(list) if !list.is_empty() => axes(&list, rank)?,
        _ if attributes.int("noop_with_empty_axes", 0) != 0 => return Ok(x.clone()),
        _ => (0..rank).collect(),
    };
    let n = x.elements()?;
    if n == 0 {
        return Err("reduces no numbers".into());
    }
    budget.take(n)?;
    let kept: Vec<usize> = (0..rank).map(|i| if over.contains(&i) { 1 } else { x.dims[i] }).collect();
    let (own, target) = (strides(&x.dims), strides(&kept));
    let place = |i: usize| {
        let at = |a: usize| if over.contains(&a) { 0 } else { i / own[a] as usize % x.dims[a] * target[a] as usize };
        (0..rank).map(at).sum::<usize>()
    };
    let (many, m) = (count(&kept)?, count(&kept)?.max(1));
    let each = (n / m) as f64;
    let values = match &x.values {
        Values::Floats(v) => {
            let (start, f): (f64, fn(f64, f64) -> f64) = match op {
                "ReduceProd" => (1.0, |a, v| a * v),
                "ReduceSum" | "ReduceMean" => (0.0, |a, v| a + v),
                "ReduceL2" | "ReduceSumSquare" => (0.0, |a, v| a + v * v),
                "ReduceMin" => (f64::INFINITY, f64::min),
                "ReduceMax" => (f64::NEG_INFINITY, f64::max),
                _ => return Err("is not supported".into()),
            };
            let mut sums = vec![start; many];
            for i in 0..n {
                let at = place(i);
                sums[at] = f(sums[at], v[if x.uniform() { 0 } else { i }].into());
            }
            let end = |s: f64| match op {
                "ReduceMean" => s / each,
                "ReduceL2" => s.sqrt(),
                _ => s,
            };
            Values::Floats(sums.into_iter().map(|s| x.kind.round(end(s))).collect())
        }
        Values::Integers(_) => {
            let all = x.sizes()?;
            let mut found: Vec<Option<Size>> = vec![None; many];
            for (i, v) in all.into_iter().enumerate() {
                let at = place(i);
                found[at] = Some(match found[at] {
                    None => v,
                    Some(a) => integer(op, a, v)?,
                });
            }
            Values::Integers(found.into_iter().flatten().collect())
        }
    };
    let dims = if attributes.int("keepdims", 1) != 0 {
        kept
    } else {
        (0..rank).filter(|i| !over.contains(i)).map(|i| x.dims[i]).collect()
    };
    Ok(Host { kind: x.kind, dims, values })
}

/// A product may have the batch in it once.
pub fn integer(op: &str, a: Size, v: Size) -> Outcome<Size> {
    let uncounted = || "makes a number that cannot be counted".to_string();
    match (op, a, v) {
        ("ReduceProd", Size::Fixed(a), Size::Fixed(v)) => a.checked_mul(v).map(Size::Fixed).ok_or_else(uncounted),
        ("ReduceProd", Size::Batch(a), Size::Fixed(v)) | ("ReduceProd", Size::Fixed(a), Size::Batch(v)) => {
            a.checked_mul(v).map(Size::Batch).ok_or_else(uncounted)
        }
        ("ReduceSum", Size::Fixed(a), Size::Fixed(v)) => a.checked_add(v).map(Size::Fixed).ok_or_else(uncounted),
        ("ReduceMin", Size::Fixed(a), Size::Fixed(v)) => Ok(Size::Fixed(a.min(v))),
        ("ReduceMax", Size::Fixed(a), Size::Fixed(v)) => Ok(Size::Fixed(a.max(v))),
        _ => Err("of these integers is not supported".into()),
    }
}
