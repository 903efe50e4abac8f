//! Operators that move elements and compute none.

use super::super::Outcome;
use super::super::attributes::Attributes;
use super::super::host::{Budget, Host, MAX_RANK, Values, axes, axis, count, slice};
use super::arithmetic::spread;
use super::{Inputs, empty};
use crate::tensor::onnx::NodeProto;

pub fn transpose(x: &Host, perm: Option<&[i64]>, budget: &mut Budget) -> Outcome<Host> {
    let rank = x.dims.len();
    let perm = permutation(perm, rank)?;
    let own = x.strides();
    let dims = perm.iter().map(|&p| x.dims[p]).collect();
    x.viewed(dims, perm.iter().map(|&p| own[p]).collect(), 0, budget)
}

/// `perm` as indices; all axes in reverse order if it is absent.
pub fn permutation(perm: Option<&[i64]>, rank: usize) -> Outcome<Vec<usize>> {
    let Some(perm) = perm else { return Ok((0..rank).rev().collect()) };
    if perm.len() != rank {
        return Err(format!("perm = {perm:?} does not fit {rank} dimensions"));
    }
    axes(perm, rank)?;
    perm.iter().map(|&p| axis(p, rank)).collect()
}

pub fn expand(x: &Host, wanted: &[usize], budget: &mut Budget) -> Outcome<Host> {
    let rank = wanted.len().max(x.dims.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    let size = |i: usize| match (at(&x.dims, i), at(wanted, i)) {
        (a, b) if a == b || b == 1 => Ok(a),
        (1, b) => Ok(b),
        _ => Err(format!("{:?} cannot become {wanted:?}", x.dims)),
    };
    let dims: Vec<usize> = (0..rank).map(size).collect::<Outcome<_>>()?;
    if count(&dims)? == 0 {
        return Ok(empty(x.kind, dims));
    }
    x.picked(dims.clone(), spread(x, &dims)?, budget)
}

/// Dimensions that `wanted` asks for: 0 copies one unless `zero` allows it, -1 is what is left.
pub fn reshape(x: &Host, wanted: &[i64], zero: bool) -> Outcome<Host> {
    if wanted.len() > MAX_RANK {
        return Err(format!("{} dimensions are too many", wanted.len()));
    }
    let fail = || format!("{:?} cannot become {wanted:?}", x.dims);
    let mut dims = Vec::with_capacity(wanted.len());
    for (i, &d) in wanted.iter().enumerate() {
        dims.push(match d {
            0 if !zero => *x.dims.get(i).ok_or_else(fail)?,
            -1 => 1,
            d => usize::try_from(d).map_err(|_| fail())?,
        });
    }
    match wanted.iter().filter(|d| **d == -1).count() {
        0 => {}
        1 => {
            let (all, rest) = (x.elements()?, count(&dims)?);
            let left = if rest == 0 { None } else { all.checked_div(rest).filter(|q| q * rest == all) };
            let at = wanted.iter().position(|d| *d == -1).ok_or_else(fail)?;
            dims[at] = left.ok_or_else(fail)?;
        }
        _ => return Err(fail()),
    }
    x.clone().reshaped(dims)
}

pub fn flatten(x: &Host, at: i64) -> Outcome<Host> {
    let rank = x.dims.len();
    let at = if at == rank as i64 { rank } else { axis(at, rank)? };
    let dims = vec![count(&x.dims[..at])?, count(&x.dims[at..])?];
    x.clone().reshaped(dims)
}

pub fn squeeze(x: &Host, list: Option<&[i64]>) -> Outcome<Host> {
    let gone = match list {
        Some(list) => axes(list, x.dims.len())?,
        None => (0..x.dims.len()).filter(|&i| x.dims[i] == 1).collect(),
    };
    let kept = (0..x.dims.len()).filter(|i| !gone.contains(i)).map(|i| x.dims[i]).collect();
    x.clone().reshaped(kept)
}

pub fn unsqueeze(x: &Host, list: &[i64]) -> Outcome<Host> {
    let rank = x.dims.len() + list.len();
    if rank > MAX_RANK {
        return Err(format!("{rank} dimensions are too many"));
    }
    let new = axes(list, rank)?;
    let mut old = x.dims.iter().copied();
    let dims = (0..rank).map(|i| if new.contains(&i) { 1 } else { old.next().unwrap_or(1) }).collect();
    x.clone().reshaped(dims)
}

pub fn tile(x: &Host, repeats: &[i64], budget: &mut Budget) -> Outcome<Host> {
    if repeats.len() != x.dims.len() {
        return Err(format!("repeats {repeats:?} do not fit {:?}", x.dims));
    }
    let mut dims = Vec::new();
    for (&d, &r) in x.dims.iter().zip(repeats) {
        let r = usize::try_from(r).map_err(|_| format!("repeats {repeats:?}"))?;
        dims.push(d.checked_mul(r).ok_or("makes a size that cannot be counted")?);
    }
    if count(&dims)? == 0 {
        return Ok(empty(x.kind, dims));
    }
    let own = x.strides();
    let shape = dims.clone();
    let source = (0..count(&dims)?).map(|mut i| {
        let mut at = 0;
        for axis in (0..shape.len()).rev() {
            at += i % shape[axis] % x.dims[axis] * own[axis] as usize;
            i /= shape[axis];
        }
        at
    });
    x.picked(dims, source, budget)
}

pub fn gather(x: &Host, at: &Host, along: i64, budget: &mut Budget) -> Outcome<Host> {
    let along = axis(along, x.dims.len())?;
    let size = x.dims[along];
    let index = |i: i64| axis(i, size).map_err(|_| format!("takes element {i} of {size}"));
    let indices: Vec<usize> = at.numbers()?.into_iter().map(index).collect::<Outcome<_>>()?;
    let dims = [&x.dims[..along], &at.dims[..], &x.dims[along + 1..]].concat();
    let (outer, inner) = (count(&x.dims[..along])?, count(&x.dims[along + 1..])?);
    if count(&dims)? == 0 {
        return Ok(empty(x.kind, dims));
    }
    let all = (0..outer).flat_map(|o| {
        let indices = &indices;
        indices.iter().flat_map(move |&i| (0..inner).map(move |j| (o * size + i) * inner + j))
    });
    x.picked(dims, all, budget)
}

/// Starts, ends, axes and steps are inputs, or attributes up to operator set 9.
pub fn sliced(x: &Host, inputs: &Inputs, attributes: Attributes, budget: &mut Budget) -> Outcome<Host> {
    let starts = inputs.list(attributes, 1, "starts")?.ok_or("has no starts")?;
    let ends = inputs.list(attributes, 2, "ends")?.ok_or("has no ends")?;
    let along = inputs.list(attributes, 3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = inputs.list(attributes, 4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), along.len(), steps.len()] != [starts.len(); 3] {
        return Err(format!("{} starts, {} ends, {} axes", starts.len(), ends.len(), along.len()));
    }
    axes(&along, x.dims.len())?;
    let (mut dims, mut strides, mut offset) = (x.dims.clone(), x.strides(), 0);
    for (i, &a) in along.iter().enumerate() {
        let a = axis(a, x.dims.len())?;
        let (first, many) = slice(x.dims[a], starts[i], ends[i], steps[i])?;
        offset += first * strides[a].unsigned_abs();
        // A step that is taken is smaller than the dimension.
        dims[a] = many;
        strides[a] = if many > 1 { strides[a] * steps[i] as isize } else { 0 };
    }
    if count(&dims)? == 0 {
        return Ok(empty(x.kind, dims));
    }
    x.viewed(dims, strides, offset, budget)
}

/// Sizes of the parts that `Split` makes of `size`.
pub fn parts(node: &NodeProto, opset: i64, size: usize, given: Option<Vec<i64>>) -> Outcome<Vec<usize>> {
    let n = node.output.len();
    let parts: Vec<usize> = match given {
        Some(list) => {
            let part = |v: &i64| usize::try_from(*v).map_err(|_| format!("splits {size} into {list:?}"));
            list.iter().map(part).collect::<Outcome<_>>()?
        }
        None => {
            let wanted = Attributes(node).int("num_outputs", n as i64);
            if n == 0 || wanted != n as i64 {
                return Err(format!("num_outputs = {wanted} for {n} outputs"));
            }
            let even = size.div_ceil(n);
            if opset < 18 && size % n != 0 {
                return Err(format!("splits {size} into {n} equal parts"));
            }
            (0..n).map(|i| even.min(size.saturating_sub(i * even))).collect()
        }
    };
    let sum = parts.iter().try_fold(0usize, |a, &p| a.checked_add(p));
    if sum != Some(size) || parts.len() != n {
        return Err(format!("splits {size} into {n} parts of {parts:?}"));
    }
    Ok(parts)
}

pub fn split(node: &NodeProto, opset: i64, inputs: &Inputs, budget: &mut Budget) -> Outcome<Vec<Host>> {
    let (x, attributes) = (inputs.at(0)?, Attributes(node));
    let along = axis(attributes.int("axis", 0), x.dims.len())?;
    let parts = parts(node, opset, x.dims[along], inputs.list(attributes, 1, "split")?)?;
    let mut first = 0;
    let mut all = Vec::new();
    for part in parts {
        let mut dims = x.dims.clone();
        dims[along] = part;
        let offset = first * x.strides()[along].unsigned_abs();
        first += part;
        all.push(match count(&dims)? {
            0 => empty(x.kind, dims),
            _ => x.viewed(dims, x.strides(), offset, budget)?,
        });
    }
    Ok(all)
}

pub fn concat(inputs: &Inputs, along: i64, budget: &mut Budget) -> Outcome<Host> {
    let all: Vec<&Host> = (0..inputs.0.len()).map(|i| inputs.at(i)).collect::<Outcome<_>>()?;
    let first = all[0];
    let along = axis(along, first.dims.len())?;
    let mut dims = first.dims.clone();
    dims[along] = 0;
    for t in &all {
        let fits = t.kind == first.kind
            && t.dims.len() == dims.len()
            && (0..dims.len()).all(|i| i == along || t.dims[i] == first.dims[i]);
        if !fits {
            return Err(format!("{:?} does not fit beside {:?}", t.dims, first.dims));
        }
        dims[along] += t.dims[along];
    }
    let n = count(&dims)?;
    if !first.kind.is_float() && n > super::MAX_INTEGERS {
        return Err(format!("makes {n} integers; at most {} are possible", super::MAX_INTEGERS));
    }
    budget.take(n)?;
    let outer = count(&dims[..along])?;
    let mut found = empty(first.kind, dims);
    for o in 0..outer {
        for t in &all {
            let each = t.elements()? / outer.max(1);
            let at = (o * each..(o + 1) * each).map(|i| if t.uniform() { 0 } else { i });
            match (&mut found.values, &t.values) {
                (Values::Floats(to), Values::Floats(from)) => to.extend(at.map(|i| from[i])),
                (Values::Integers(to), Values::Integers(from)) => to.extend(at.map(|i| from[i])),
                _ => return Err("joins floats and integers".into()),
            }
        }
    }
    Ok(found)
}
