//! Activations that a file writes as several nodes: SiLU, HardSwish, Mish and Gelu as products.
//!
//! A product is taken apart into a number and the values that are multiplied; then its factors are compared with those of the
//! functions. Nodes between are emitted too, as they come first; they are dropped in the end if nothing else reads them.

use super::Outcome;
use super::attributes::Attributes;
use super::build::{Build, Flow, Value};
use super::emit::Function;
use crate::tensor::onnx::NodeProto;

/// Nested products that are taken apart, at most.
const DEPTH: usize = 4;

/// A number times some values.
struct Product<'a> {
    number: f64,
    factors: Vec<&'a str>,
}

/// Whether two constants agree to what half precision would tell apart.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-3 * b.abs()
}

impl<'a> Build<'a> {
    /// The function that `node`, a product or quotient, is the last part of.
    pub(super) fn by_parts(&mut self, node: &NodeProto) -> Outcome<Option<Flow>> {
        if !["Mul", "Div"].contains(&&node.op_type[..]) {
            return Ok(None);
        }
        let Some((root, f)) = self.function(node) else { return Ok(None) };
        let Some(Value::Flow(flow)) = self.named(root) else { return Ok(None) };
        let flow = Flow { shared: true, ..flow.clone() };
        if flow.pad.is_some() {
            return Ok(None);
        }
        let flow = self.settled(node, flow)?;
        self.function_of(node, flow, f).map(Some)
    }

    fn function(&self, node: &NodeProto) -> Option<(&'a str, Function)> {
        let mut all = Product { number: 1.0, factors: Vec::new() };
        // The node itself has no name that outlives the file, its inputs do.
        let node = self.made_by(node.output.first()?)?;
        self.take_apart(node, &mut all, DEPTH)?;
        let [a, b] = all.factors[..] else { return None };
        [(a, b), (b, a)].into_iter().find_map(|(x, other)| {
            let f = self.partner(x, other, all.number)?;
            Some((x, f))
        })
    }

    /// `f(x) = number * x * other`.
    fn partner(&self, x: &str, other: &str, number: f64) -> Option<Function> {
        let made = self.source(other)?;
        let reads = |node: &NodeProto, i: usize| node.input.get(i).is_some_and(|n| self.same(n, x));
        match &made.op_type[..] {
            "Sigmoid" if number == 1.0 && reads(made, 0) => Some(Function::Silu),
            "HardSigmoid" if number == 1.0 && reads(made, 0) => {
                let (alpha, beta) = (Attributes(made).float("alpha", 0.2), Attributes(made).float("beta", 0.5));
                (near(alpha.into(), 1.0 / 6.0) && beta == 0.5).then_some(Function::HardSwish)
            }
            "Tanh" if number == 1.0 => {
                let inner = self.source(made.input.first()?)?;
                (inner.op_type == "Softplus" && reads(inner, 0)).then_some(Function::Mish)
            }
            "Clip" | "Min" if near(number, 1.0 / 6.0) => {
                (self.cut_at_6(made).is_some_and(|sum| self.plus(sum, 3.0).is_some_and(|r| self.same(r, x))))
                    .then_some(Function::HardSwish)
            }
            "Add" if near(number, 0.5) => self.gelu_gate(made, x),
            _ => None,
        }
    }

    /// `1 + Erf(x / sqrt 2)`, or `1 + Tanh(sqrt(2 / pi) (x + 0.044715 x^3))`.
    fn gelu_gate(&self, sum: &NodeProto, x: &str) -> Option<Function> {
        let inner = self.source(self.plus_of(sum, 1.0)?)?;
        let of = self.product(inner.input.first()?)?;
        let &[one] = &of.factors[..] else { return None };
        match &inner.op_type[..] {
            "Erf" => (near(of.number, std::f64::consts::FRAC_1_SQRT_2) && self.same(one, x))
                .then_some(Function::Gelu { tanh: false }),
            "Tanh" if near(of.number, (2.0 / std::f64::consts::PI).sqrt()) => {
                let sum = self.source(one).filter(|n| n.op_type == "Add" && n.input.len() == 2)?;
                let cubic = |name: &str| {
                    self.product(name).is_some_and(|p| {
                        let power = |n: &NodeProto| {
                            n.op_type == "Pow"
                                && n.input.first().is_some_and(|r| self.same(r, x))
                                && n.input.get(1).and_then(|e| self.constant(e)) == Some(3.0)
                        };
                        let cube = match &p.factors[..] {
                            [one] => self.source(one).is_some_and(power),
                            [a, b, c] => [a, b, c].iter().all(|f| self.same(f, x)),
                            _ => false,
                        };
                        near(p.number, 0.044_715) && cube
                    })
                };
                let [a, b] = [&sum.input[0], &sum.input[1]];
                (self.same(a, x) && cubic(b) || self.same(b, x) && cubic(a)).then_some(Function::Gelu { tanh: true })
            }
            _ => None,
        }
    }

    /// Returns the name of the value that is cut at 0 and 6.
    fn cut_at_6(&self, node: &'a NodeProto) -> Option<&'a str> {
        if node.op_type == "Min" {
            let (x, six) = self.one_constant(node)?;
            let relu = self.source(x).filter(|n| n.op_type == "Relu" && six == 6.0)?;
            return relu.input.first().map(|n| &n[..]);
        }
        let end = |i: usize, name: &str| match node.input.get(i).filter(|n| !n.is_empty()) {
            Some(name) => self.constant(name),
            None => Attributes(node).get(name).map(|a| a.f.into()),
        };
        (end(1, "min") == Some(0.0) && end(2, "max") == Some(6.0)).then(|| node.input.first().map(|n| &n[..]))?
    }

    /// `x` of a value `x + number`.
    fn plus(&self, name: &str, number: f64) -> Option<&'a str> {
        self.plus_of(self.source(name)?, number)
    }
    fn plus_of(&self, node: &NodeProto, number: f64) -> Option<&'a str> {
        let node = self.made_by(node.output.first()?).filter(|n| n.op_type == "Add")?;
        self.one_constant(node).filter(|(_, v)| *v == number).map(|(x, _)| x)
    }

    /// The other input and the number of a node that reads one constant number.
    fn one_constant(&self, node: &'a NodeProto) -> Option<(&'a str, f64)> {
        let [a, b] = &node.input[..] else { return None };
        match (self.constant(a), self.constant(b)) {
            (None, Some(v)) => Some((a, v)),
            (Some(v), None) => Some((b, v)),
            _ => None,
        }
    }

    /// The factors of value `name`: itself, or those of a product that it is.
    fn product(&self, name: &'a str) -> Option<Product<'a>> {
        let mut all = Product { number: 1.0, factors: Vec::new() };
        self.factor(name, &mut all, DEPTH)?;
        Some(all)
    }

    fn factor(&self, name: &'a str, all: &mut Product<'a>, depth: usize) -> Option<()> {
        if let Some(v) = self.constant(name) {
            all.number *= v;
            return Some(());
        }
        match self.source(name) {
            Some(node) if depth > 0 && ["Mul", "Div"].contains(&&node.op_type[..]) => {
                self.take_apart(node, all, depth - 1)
            }
            _ => {
                all.factors.push(name);
                (all.factors.len() <= 3).then_some(())
            }
        }
    }

    /// The factors of a product, or of a quotient by a number.
    fn take_apart(&self, node: &'a NodeProto, all: &mut Product<'a>, depth: usize) -> Option<()> {
        let [a, b] = &node.input[..] else { return None };
        self.factor(a, all, depth)?;
        if node.op_type == "Mul" {
            return self.factor(b, all, depth);
        }
        all.number /= self.constant(b)?;
        Some(())
    }

    /// The node behind a value, seen through those that change nothing.
    fn source(&self, name: &str) -> Option<&'a NodeProto> {
        let mut node = self.made_by(name)?;
        for _ in 0..DEPTH {
            match &node.op_type[..] {
                "Identity" | "Cast" => node = self.made_by(node.input.first()?)?,
                _ => break,
            }
        }
        Some(node)
    }

    /// Whether two names are of one activation.
    fn same(&self, a: &str, b: &str) -> bool {
        match (self.named(a), self.named(b)) {
            (Some(Value::Flow(x)), Some(Value::Flow(y))) => {
                a == b || x.node == y.node && x.layout == y.layout && x.pad == y.pad
            }
            _ => false,
        }
    }

    /// A constant of one number.
    fn constant(&self, name: &str) -> Option<f64> {
        match self.named(name)? {
            Value::Constant(held) => {
                let small = match held {
                    super::build::Held::File(t) => t.dims.iter().all(|d| *d == 1),
                    super::build::Held::Made(t) => t.uniform(),
                };
                if small { self.decoded(held).ok()?.single().ok() } else { None }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::Layout;
    use super::super::storing::Limits;
    use super::*;
    use crate::tensor::onnx::{GraphProto, TensorProto};

    /// The function that the last of `nodes` completes: `output op input input ..` each, inputs that are numbers constant.
    fn found(nodes: &[&str]) -> Option<Function> {
        let mut file = GraphProto::default();
        for line in nodes {
            let words: Vec<String> = line.split(' ').map(String::from).collect();
            for v in words.iter().skip(2) {
                if let Ok(number) = v.parse::<f32>() {
                    if file.initializer.iter().all(|t| t.name != *v) {
                        let one = TensorProto {
                            name: v.clone(),
                            data_type: 1,
                            float_data: vec![number],
                            ..Default::default()
                        };
                        file.initializer.push(one);
                    }
                }
            }
            let [output, op, input @ ..] = &words[..] else { panic!("{line}") };
            let (output, op_type, input) = (vec![output.clone()], op.clone(), input.to_vec());
            file.node.push(NodeProto { output, op_type, input, ..Default::default() });
        }
        let limits = Limits { copied: 1000, filled: 1000, evaluated: 1000 };
        let mut build = Build::new("net", 17, &file, None, limits);
        build.input("x", [4, 4, 3], Layout::channels_first([4, 4, 3]), None);
        file.node.iter().for_each(|n| build.node(n, false));
        build.function(file.node.last()?).map(|(root, f)| {
            assert_eq!(root, "x");
            f
        })
    }

    #[test]
    fn products_are_functions() {
        let silu = Some(Function::Silu);
        assert_eq!(found(&["s Sigmoid x", "y Mul x s"]), silu);
        assert_eq!(found(&["i Identity x", "s Sigmoid i", "y Mul s x"]), silu);
        assert_eq!(found(&["s Softplus x", "t Tanh s", "y Mul x t"]), Some(Function::Mish));
        let hard = Some(Function::HardSwish);
        assert_eq!(found(&["a Add x 3", "c Clip a 0 6", "m Mul x c", "y Div m 6"]), hard);
        assert_eq!(found(&["a Add 3 x", "c Clip a 0 6", "d Div c 6", "y Mul d x"]), hard);
        assert_eq!(found(&["a Add 3 x", "c Clip a 0 6", "d Mul 0.16666667 c", "y Mul d x"]), hard);
        assert_eq!(found(&["a Add x 3", "r Relu a", "c Min r 6", "m Mul x c", "y Mul m 0.16666667"]), hard);
        let gelu = Some(Function::Gelu { tanh: false });
        assert_eq!(found(&["d Div x 1.4142135", "e Erf d", "a Add e 1", "m Mul x a", "y Mul m 0.5"]), gelu);
        assert_eq!(found(&["d Mul x 0.70710678", "e Erf d", "a Add 1 e", "h Mul 0.5 x", "y Mul h a"]), gelu);
        let tanh = ["p Pow x 3", "q Mul p 0.044715", "s Add x q", "m Mul s 0.7978846", "t Tanh m", "a Add t 1"];
        assert_eq!(found(&[&tanh[..], &["h Mul x 0.5", "y Mul h a"]].concat()), Some(Function::Gelu { tanh: true }));
    }

    #[test]
    fn other_products_are_not() {
        for nodes in [
            &["s Sigmoid x", "t Tanh x", "y Mul t s"][..],
            &["s Sigmoid x", "m Mul x s", "y Mul m 2"],
            &["a Add x 2", "c Clip a 0 6", "m Mul x c", "y Div m 6"],
            &["a Add x 3", "c Clip a 0 5", "m Mul x c", "y Div m 6"],
            &["a Add x 3", "c Clip a 0 6", "m Mul x c", "y Div m 5"],
            &["d Div x 2", "e Erf d", "a Add e 1", "m Mul x a", "y Mul m 0.5"],
            &["d Div x 1.4142135", "e Erf d", "a Add e 2", "m Mul x a", "y Mul m 0.5"],
            &["s Softplus x", "t Tanh s", "y Mul t t"],
            &["y Mul x x"],
            &["y Div 6 x"],
        ] {
            assert_eq!(found(nodes), None, "{nodes:?}");
        }
    }
}
