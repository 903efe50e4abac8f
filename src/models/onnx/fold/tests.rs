use super::super::host::listed;
use super::*;
use crate::tensor::onnx::{AttributeProto, DataType, TensorProto};

fn attribute(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: name.into(), i: ints[0], ints: ints.to_vec(), ..Default::default() }
}

fn run(op: &str, inputs: &[Host], attribute: Vec<AttributeProto>) -> Outcome<Vec<Host>> {
    let output = vec!["y".into(); if op == "Split" { 2 } else { 1 }];
    let node = NodeProto { op_type: op.into(), attribute, output, ..Default::default() };
    let inputs: Vec<_> = inputs.iter().map(|t| Some(Rc::new(t.clone()))).collect();
    assert!(knows(op), "{op}");
    evaluate(&node, 17, &Inputs(&inputs), &mut Budget::new(10_000))
}

fn one(op: &str, inputs: &[Host], attribute: Vec<AttributeProto>) -> Host {
    run(op, inputs, attribute).unwrap_or_else(|e| panic!("{op}: {e}")).remove(0)
}

fn floats(dims: &[usize], v: &[f32]) -> Host {
    Host::floats(Kind::F32, dims.to_vec(), v.to_vec())
}

fn all(t: &Host) -> Vec<f32> {
    let Values::Floats(v) = &t.values else { panic!("floats") };
    let n = t.elements().unwrap();
    if t.uniform() { vec![v[0]; n] } else { v.clone() }
}

/// The default exporter writes the bias of a convolution without one so.
#[test]
fn zero_bias_of_the_default_exporter() {
    let dims: Vec<Size> = [16, 3, 5, 5].map(Size::Fixed).to_vec();
    let node = NodeProto { attribute: vec![attribute("start", &[0]), attribute("end", &[1])], ..Default::default() };
    let k = shape_of(dims, Attributes(&node)).unwrap();
    assert_eq!(k.numbers().unwrap(), [16]);
    let one_dim = one("Expand", &[k, Host::fixed(&[1])], vec![]);
    assert_eq!(one_dim.numbers().unwrap(), [16]);
    let zero =
        one("CastLike", &[Host::integers(Kind::I64, vec![], vec![Size::Fixed(0)]), floats(&[1], &[9.0])], vec![]);
    let bias = one("Expand", &[zero, one_dim], vec![]);
    assert_eq!((bias.kind, &bias.dims[..], bias.held(), all(&bias)), (Kind::F32, &[16][..], 1, vec![0.0; 16]));
}

#[test]
fn sizes_keep_the_batch() {
    let batch = Host::list(vec![Size::Batch(1)]);
    let list = |op: &str, a: &Host, b: &[i64]| run(op, &[a.clone(), Host::fixed(b)], vec![]);
    let shown = |t: Outcome<Vec<Host>>| listed(&t.unwrap()[0].sizes().unwrap());
    assert_eq!(shown(list("Mul", &batch, &[6])), "[6 batch]");
    let six = list("Mul", &batch, &[6]).unwrap().remove(0);
    assert_eq!(shown(list("Div", &six, &[2])), "[3 batch]");
    assert_eq!(shown(list("Add", &batch, &[0])), "[batch]");
    assert_eq!(shown(run("Div", &[six.clone(), batch.clone()], vec![])), "[6]");
    assert_eq!(shown(run("Sub", &[six.clone(), six.clone()], vec![])), "[0]");
    assert_eq!(shown(list("Equal", &batch, &[-1])), "[0]");
    assert_eq!(
        shown(run("Concat", &[batch.clone(), Host::fixed(&[-1])], vec![attribute("axis", &[0])])),
        "[batch, -1]"
    );
    for (op, v) in [("Add", 1), ("Div", 7), ("Less", 3), ("Equal", 12), ("Mod", 2)] {
        assert!(list(op, &six, &[v]).is_err(), "{op} {v}");
    }
    // Casting it to a float would lose it.
    assert!(run("Cast", &[batch], vec![attribute("to", &[1])]).unwrap_err().contains("batch"));
    assert!(list("Mul", &Host::fixed(&[1 << 62]), &[4]).unwrap_err().contains("counted"));
}

/// `ceil(h / stride)` in floats, and paddings from it, as "same" padding is computed in a graph.
#[test]
fn same_padding_is_computed() {
    let h = one("Cast", &[Host::fixed(&[225])], vec![attribute("to", &[1])]);
    let out = one("Ceil", &[one("Div", &[h, floats(&[1], &[2.0])], vec![])], vec![]);
    let out = one("Cast", &[out], vec![attribute("to", &[7])]);
    let need = one("Sub", &[out, Host::fixed(&[1])], vec![]);
    let need = one("Add", &[one("Mul", &[need, Host::fixed(&[2])], vec![]), Host::fixed(&[3])], vec![]);
    let need = one("Max", &[one("Sub", &[need, Host::fixed(&[225])], vec![]), Host::fixed(&[0])], vec![]);
    assert_eq!(one("Div", &[need, Host::fixed(&[2])], vec![]).numbers().unwrap(), [1]);
}

#[test]
fn integers_divide_as_onnx_says() {
    let pair = |op: &str, a: i64, b: i64, fmod: i64| {
        run(op, &[Host::fixed(&[a]), Host::fixed(&[b])], vec![attribute("fmod", &[fmod])])
            .map(|t| t[0].numbers().unwrap()[0])
    };
    assert_eq!([pair("Div", -7, 2, 0), pair("Mod", -7, 2, 0), pair("Mod", -7, 2, 1)], [Ok(-3), Ok(1), Ok(-1)]);
    assert!(pair("Div", 1, 0, 0).is_err() && pair("Mod", 1, 0, 0).is_err() && pair("Div", i64::MIN, -1, 0).is_err());
}

#[test]
fn elements_move() {
    let x = Host::integers(Kind::I64, vec![2, 3], (0..6).map(Size::Fixed).collect());
    let numbers = |t: Host| (t.dims.clone(), t.numbers().unwrap());
    assert_eq!(
        numbers(one("Transpose", &[x.clone()], vec![attribute("perm", &[1, 0])])),
        (vec![3, 2], vec![0, 3, 1, 4, 2, 5])
    );
    assert_eq!(
        numbers(one("Gather", &[x.clone(), Host::fixed(&[-1, 0])], vec![attribute("axis", &[1])])),
        (vec![2, 2], vec![2, 0, 5, 3])
    );
    assert_eq!(
        numbers(one("Tile", &[x.clone(), Host::fixed(&[1, 2])], vec![])),
        (vec![2, 6], vec![0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5])
    );
    let sliced = |start: i64, end: i64, axis: i64, step: i64| {
        numbers(one(
            "Slice",
            &[x.clone(), Host::fixed(&[start]), Host::fixed(&[end]), Host::fixed(&[axis]), Host::fixed(&[step])],
            vec![],
        ))
    };
    assert_eq!(sliced(-1, i64::MIN, 1, -2), (vec![2, 2], vec![2, 0, 5, 3]));
    assert_eq!(sliced(1, i64::MAX, 0, i64::MAX), (vec![1, 3], vec![3, 4, 5]));
    assert_eq!(
        numbers(one("Reshape", &[x.clone(), Host::fixed(&[0, -1, 1])], vec![])),
        (vec![2, 3, 1], (0..6).collect())
    );
    assert_eq!(
        numbers(one("Squeeze", &[one("Unsqueeze", &[x.clone(), Host::fixed(&[0, 3])], vec![])], vec![])),
        (vec![2, 3], (0..6).collect())
    );
    let parts = run("Split", &[x.clone(), Host::fixed(&[1, 2])], vec![attribute("axis", &[1])]).unwrap();
    assert_eq!(
        parts.into_iter().map(numbers).collect::<Vec<_>>(),
        [(vec![2, 1], vec![0, 3]), (vec![2, 2], vec![1, 2, 4, 5])]
    );
    assert_eq!(
        numbers(one("Range", &[5, -1, -2].map(|v| Host::integers(Kind::I64, vec![], vec![Size::Fixed(v)])), vec![])),
        (vec![3], vec![5, 3, 1])
    );
    assert_eq!(
        numbers(one("ReduceProd", &[x.clone(), Host::fixed(&[0])], vec![attribute("keepdims", &[0])])),
        (vec![3], vec![0, 4, 10])
    );
    assert_eq!(
        numbers(one(
            "Where",
            &[Host::integers(Kind::Bool, vec![2, 1], vec![Size::Fixed(1), Size::Fixed(0)]), x, Host::fixed(&[9])],
            vec![]
        )),
        (vec![2, 3], vec![0, 1, 2, 9, 9, 9])
    );
}

/// Standardized weights: each filter minus its mean, by its deviation.
#[test]
fn weights_are_standardized() {
    let w = floats(&[2, 2, 1, 2], &[1.0, 2.0, 3.0, 6.0, -1.0, 1.0, -1.0, 1.0]);
    let axes = attribute("axes", &[1, 2, 3]);
    let mean = one("ReduceMean", &[w.clone()], vec![axes.clone()]);
    assert_eq!((mean.dims.clone(), all(&mean)), (vec![2, 1, 1, 1], vec![3.0, 0.0]));
    let apart = one("Sub", &[w, mean], vec![]);
    let var = one("ReduceMean", &[one("Mul", &[apart.clone(), apart.clone()], vec![])], vec![axes]);
    let deviation = one("Sqrt", &[var], vec![]);
    let found = one("Div", &[apart, deviation.clone()], vec![]);
    assert_eq!(all(&deviation), [3.5f32.sqrt(), 1.0]);
    assert_eq!(all(&found)[4..], [-1.0, 1.0, -1.0, 1.0]);
}

#[test]
fn filled_tensors_take_no_memory() {
    let value =
        TensorProto { dims: vec![1], data_type: DataType::Float as i32, float_data: vec![0.5], ..Default::default() };
    let value = AttributeProto { name: "value".into(), t: Some(value), ..Default::default() };
    let large = one("ConstantOfShape", &[Host::fixed(&[1 << 13, 1 << 13])], vec![value.clone()]);
    assert_eq!((large.held(), large.elements().unwrap()), (1, 1 << 26));
    // Nor does what is computed from them; what needs all of their numbers is refused.
    assert_eq!(one("Sqrt", &[one("Mul", &[large.clone(), large.clone()], vec![])], vec![]).held(), 1);
    assert!(run("Concat", &[large.clone(), large.clone()], vec![attribute("axis", &[0])]).is_err());
    assert!(run("ReduceSum", &[large.clone()], vec![]).is_err());
    assert!(run("Add", &[large.clone(), floats(&[1 << 13], &[1.0; 1 << 13])], vec![]).is_err());
    for dims in [&[-1][..], &[1 << 62, 4], &[1 << 39, 4]] {
        assert!(run("ConstantOfShape", &[Host::fixed(dims)], vec![value.clone()]).is_err(), "{dims:?}");
    }
}

#[test]
fn half_precision_rounds() {
    let x = Host::floats(Kind::F16, vec![1], vec![2048.0]);
    let y = one("Add", &[x.clone(), Host::floats(Kind::F16, vec![1], vec![1.0])], vec![]);
    assert_eq!((y.kind, all(&y)), (Kind::F16, vec![2048.0]));
    assert_eq!(one("Cast", &[floats(&[2], &[-1.9, 2.5])], vec![attribute("to", &[7])]).numbers().unwrap(), [-1, 2]);
    assert_eq!(all(&one("Round", &[floats(&[2], &[0.5, 1.5])], vec![])), [0.0, 2.0]);
    assert_eq!(
        all(&one("Clip", &[floats(&[2], &[-3.0, 9.0]), floats(&[], &[0.0]), floats(&[], &[6.0])], vec![])),
        [0.0, 6.0]
    );
}
