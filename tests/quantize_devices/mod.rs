//! The kernels in the emulator against the CPU, step by step. The loop itself is not run: it evaluates on hundreds of
//! held-out images, which an emulator has no time for.

use super::*;
use ghostbit::graph::{Forward, RangeMode, Taps};
use ghostbit::methods::Losses;
use ghostbit::ops::observe::EmaForm;
use ghostbit::train::ImagePool;

/// Named figures of a run's first iterations.
type Figures = Vec<(String, Vec<f32>)>;

/// A loss and its terms.
fn values(l: &Losses) -> Vec<f32> {
    std::iter::once(l.total).chain(l.terms.iter().map(|(_, v)| *v)).collect()
}

/// Warm-up and student iterations of `recipe`, from the given searched ranges where there are any, then logits of both networks
/// on built-in images.
fn figures(device: &Device, recipe: &Recipe, searched: Option<&[f32]>) -> Figures {
    let n = recipe.batch;
    let mut run = QuantizeRun::new(device, teacher(device), Normalization::CIFAR, recipe.clone()).unwrap();
    let mut list = Figures::new();
    for it in 1..=recipe.warmup {
        let (made, l) = run.generator.step(&mut run.teacher, &mut run.student, n, it).unwrap();
        list.push((format!("generator {it}"), values(&l)));
        if recipe.ranges.batches == 0 {
            run.student.observe(&made.images, RangeMode::TrackMinMax(EmaForm::Textbook)).unwrap();
        }
    }
    let mut pool = None;
    if let Some(images) = recipe.images.as_ref().filter(|i| i.count > 0) {
        let tell = &mut |e: Event| {
            if let Event::Images { loss, .. } = e {
                list.push(("images".into(), vec![loss]));
            }
            Ok(())
        };
        let (teacher, generator) = (&mut run.teacher, &mut run.generator);
        let made = ImagePool::make(teacher, generator, recipe, images, images.count, true, tell).unwrap();
        let first = made.in_order(0, n).unwrap().0;
        run.student.observe(&first, RangeMode::TrackSearch(EmaForm::Textbook)).unwrap();
        pool = Some(made);
    }
    let ranges = run.student.network.ranges.values().to_vec::<f32>().unwrap();
    list.push(("ranges".into(), ranges));
    if let Some(searched) = searched {
        run.student.network.ranges.values_mut().write(searched).unwrap();
    }
    for it in recipe.warmup + 1..=recipe.iters {
        let (made, l) = run.generator.step(&mut run.teacher, &mut run.student, n, it).unwrap();
        list.push((format!("generator {it}"), values(&l)));
        let batch = match &pool {
            Some(p) => p.batch(n, recipe.seed, it).unwrap(),
            None => made,
        };
        let l = run.student.step(&mut run.teacher, &batch, it).unwrap();
        list.push((format!("student {it}"), values(&l)));
    }
    let (x, _) = generate(Split::Test, n).batch(device, 0..n, &Normalization::CIFAR).unwrap();
    list.push(("teacher logits".into(), run.teacher_logits(&x).unwrap().to_vec().unwrap()));
    list.push(("student logits".into(), run.student_logits(&x).unwrap().to_vec().unwrap()));
    list
}

/// Relative deviations allowed, each about five times what was measured.
///
/// One float pass differs by its order of summation alone (measured 2e-7).
const ONE_PASS: f32 = 1e-6;
/// Steps of Adam divide by the gradient's size, so rounding in small gradients grows by each step (1.1e-3).
const CHAINED: f32 = 5e-3;
/// A value at the edge between two codes may fall to either side: single jumps of 1/255 of a range at 8 bits (5.6e-3). At 4
/// bits the same runs differ by 3.4e-2, as jumps of 1/15 do.
const QUANTIZED: f32 = 2.5e-2;
/// Of nearly equal candidates one device may take the neighbour: 1/80 of the range apart, then refined by up to 1/80 either
/// way (2.6e-2 seen, as images differ by 4e-4).
const SEARCHED: f32 = 3.0 / 80.0;

/// Compares the devices, every figure relative to its largest magnitude.
fn agree(recipe: &Recipe) {
    let cpu = figures(&Device::cpu(), recipe, None);
    // A search that took another candidate is compared, and not carried on.
    let searched = cpu.iter().find(|(name, _)| name == "ranges" && recipe.ranges.batches > 0);
    let emulated = figures(&Device::emulator().unwrap(), recipe, searched.map(|(_, ranges)| &ranges[..]));
    assert_eq!(cpu.len(), emulated.len());
    for ((name, a), (other, b)) in cpu.iter().zip(&emulated) {
        assert_eq!((name, a.len()), (other, b.len()));
        assert!(a.iter().chain(b).all(|v| v.is_finite()), "{name} is not finite: {a:?} {b:?}");
        let scale = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        let apart = a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
        println!("{name:<16} {apart:.1e}");
        let allowed = match name.as_str() {
            "generator 1" | "teacher logits" => ONE_PASS,
            "ranges" if recipe.ranges.batches > 0 => SEARCHED,
            "ranges" | "student logits" => QUANTIZED,
            n if n.starts_with("student") => QUANTIZED,
            _ => CHAINED,
        };
        assert!(apart <= allowed, "{}: {name} differs by {apart:.1e} between devices", recipe.name);
    }
}

#[test]
fn gdfq_agrees() {
    agree(&recipe("gdfq", &["batch=2", "iters=4", "warmup=2", "wbits=8", "abits=8"]));
}

#[test]
fn best_agrees() {
    // The KL of an 8-bit student alone is the difference of nearly equal numbers; the cross-entropy gives it a scale.
    let set = [
        "student_loss.cross_entropy.weight=1",
        "batch=2",
        "iters=4",
        "warmup=2",
        "images.count=4",
        "images.iters=2",
        "ranges.batches=1",
        "ranges.lr=2e-4",
    ];
    // Adam's first step is the gradient's sign, which rounding decides where the gradient is next to nothing.
    let set = [&set[..], &["wbits=8", "abits=8", "student.optimizer=sgd"]].concat();
    agree(&recipe("best", &set));
}

#[test]
fn synq_agrees() {
    // The untrained teacher is unsure of every label; the alignments' weights would show little but rounded codes.
    let set = ["student_loss.cross_entropy.weight=1", "student_loss.cross_entropy.gate=0.99", "student.lr=1e-4"];
    let small = ["student_loss.feature_alignment.weight=1", "student_loss.cam.weight=1", "student_loss.kl.weight=1"];
    let sizes = ["batch=2", "iters=4", "warmup=2", "images.count=4", "images.iters=2", "wbits=8", "abits=8"];
    agree(&recipe("synq", &[&set[..], &small, &sizes].concat()));
}

/// What one generator step and one student step leave behind.
struct Single {
    generator: Losses,
    images: Vec<f32>,
    generator_grads: Vec<(String, Vec<f32>)>,
    /// Every generator parameter before and after.
    generator_params: [Vec<(String, Vec<f32>)>; 2],
    /// Outputs of the student's ReLUs.
    relus: Vec<(String, Vec<f32>)>,
    /// Outputs of its activation quantizers, and the distance between two of their codes.
    quantized: Vec<(String, Vec<f32>, f32)>,
    logits: Vec<f32>,
    /// Of the student without quantizers.
    float_logits: Vec<f32>,
    student: Losses,
    student_grads: Vec<(String, Vec<f32>)>,
    student_params: Vec<f32>,
    /// Nodes of generator and teacher, one behind the other.
    depth: usize,
}

const BATCH: usize = 2;

fn host(t: &Tensor) -> Vec<f32> {
    t.to_vec().unwrap()
}

/// Values or gradients by parameter.
fn named(network: &Network, of: impl Fn(&str) -> ghostbit::Result<Tensor>) -> Vec<(String, Vec<f32>)> {
    network.params.entries().map(|(name, _)| (name.to_string(), host(&of(name).unwrap()))).collect()
}

/// One generator step and one student step of `recipe`. The teacher is [`teacher`] with shifts in its batch norms: at
/// their initial 0 sums of products of codes are exactly 0 at many places, and on which side of it they are rounded
/// decides a ReLU's gradient. `nudge` is added to one weight of its last layer.
fn single(device: &Device, recipe: &Recipe, nudge: f32) -> Single {
    let float = teacher(device);
    let shifts: Vec<String> = float.params.entries().map(|e| e.0.to_string()).filter(|n| n.contains("bn")).collect();
    for name in shifts.iter().filter(|n| n.ends_with(".bias")) {
        let mut shift = float.params.get(name).unwrap();
        let values: Vec<f32> = (0..shift.len()).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect();
        shift.write(&values).unwrap();
    }
    let mut last = float.params.get("linear.weight").unwrap();
    let mut weights = host(&last);
    weights[0] += nudge;
    last.write(&weights).unwrap();

    let mut run = QuantizeRun::new(device, float, Normalization::CIFAR, recipe.clone()).unwrap();
    let values = |n: &Network| named(n, |name| n.params.get(name));
    let before = values(&run.generator.network);
    let (made, generator) = run.generator.step(&mut run.teacher, &mut run.student, BATCH, 1).unwrap();
    let generator_params = [before, values(&run.generator.network)];
    run.student.observe(&made.images, RangeMode::TrackMinMax(EmaForm::Textbook)).unwrap();

    let how = run.student.forward_mode(RangeMode::Frozen);
    let nodes = run.student.network.graph.nodes.clone();
    let kind = |wanted: fn(&NodeKind) -> bool| (0..nodes.len()).filter(move |&id| wanted(&nodes[id].kind));
    let relus: Vec<usize> = kind.clone()(|k| *k == NodeKind::from(Activation::Relu)).collect();
    let quantizers: Vec<usize> = kind(|k| matches!(k, NodeKind::FakeQuant(_))).collect();
    let name = |id: &usize| run.student.network.graph.nodes[*id].name.clone();
    let (relu_names, quantizer_names): (Vec<_>, Vec<_>) =
        (relus.iter().map(name).collect(), quantizers.iter().map(name).collect());
    let taps = Taps { bn_stats: false, nodes: [&relus[..], &quantizers].concat() };
    let mut forward = |how| {
        let x = Var::constant(made.images.clone());
        run.student.network.forward(&mut Tape::inference(device), &[x], how, &taps).unwrap()
    };
    let float_logits = host(&forward(Forward { float: true, ..how }).output.value);
    let out = forward(how);
    let range = |name: &str, end: &str| {
        run.student.network.ranges.get(&format!("{name}.{end}")).unwrap().item().unwrap() as f32
    };
    let codes = f32::from(1u16 << recipe.abits) - 1.0;
    let step = |n: &String| (range(n, "hi") - range(n, "lo")) / codes;
    let (relu_taps, quantizer_taps) = out.taps.split_at(relus.len());
    let relus = relu_names.into_iter().zip(relu_taps).map(|(n, t)| (n, host(&t.value))).collect();
    let quantized = quantizer_names.iter().zip(quantizer_taps);
    let quantized = quantized.map(|(n, t)| (n.clone(), host(&t.value), step(n))).collect();
    let logits = host(&out.output.value);
    drop(out);
    let student = run.student.step(&mut run.teacher, &made, 2).unwrap();
    let (g, s) = (&run.generator.network, &run.student.network);
    Single {
        generator,
        images: host(&made.images),
        generator_grads: named(g, |name| g.params.grad(name)),
        generator_params,
        relus,
        quantized,
        logits,
        float_logits,
        student,
        student_grads: named(s, |name| s.params.grad(name)),
        student_params: host(s.params.values()),
        depth: g.graph.nodes.len() + run.teacher.graph.nodes.len(),
    }
}

fn largest(v: &[f32]) -> f32 {
    v.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Largest difference; infinite if a value is not finite.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m, (a, b)| if (a - b).is_finite() { m.max((a - b).abs()) } else { f32::INFINITY })
}

/// Longest sum behind one value: a filter's gradient, or a batch's mean, over all pixels (3 x 3 x 128 is less).
const LONGEST: usize = BATCH * 32 * 32;

/// How far two orders of summation may drive apart what `depth` operations compute, relative to its largest value.
///
/// A sum of `n` terms errs by at most `lambda sqrt(n) 2^-24` of the terms' sizes, but for a probability of about
/// `2 exp(-lambda^2 / 2)` (Higham and Mary, SIAM J. Sci. Comput. 41, 2019); errors of operations in a row are as
/// independent and add up by their squares, no operation here magnifying what it is given. `lambda = 4`. Measured:
/// 1e-6 forward, 2e-5 in the gradients.
fn rounding(depth: usize) -> f32 {
    4.0 * ((depth * LONGEST) as f32).sqrt() * 2f32.powi(-24)
}

/// Where two devices disagree by more than rounding explains. At 4 bits rounding has one large effect: a value that lies
/// within its error of the edge between two codes (or of 0 before a ReLU) may fall to either side.
///
/// - How many may: values reach at most 15 steps, so their errors at most `15 rounding` steps, and of values spread
///   evenly between edges twice that share lies so close.
/// - What it does: a share `p` of codes moved by one step is noise of `sqrt(p)` steps, where quantization itself is
///   noise of `sqrt(1 / 12)` steps. So it moves logits by `sqrt(12 p)` of what quantization does, and gradients, for
///   which quantization is noise of their own size, by `sqrt(12 p)` of themselves; four times that is allowed. With
///   no code flipped that leaves rounding alone.
fn faults(a: &Single, b: &Single, recipe: &Recipe) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |what: &str, difference: f32, allowed: f32| {
        println!("{what:<40} {difference:.1e} of {allowed:.1e}");
        if !(difference <= allowed) {
            faults.push(format!("{what}: {difference:e} apart, {allowed:e} allowed"));
        }
    };
    let (once, twice) = (rounding(a.depth), rounding(2 * a.depth));
    check("generator losses", apart(&values(&a.generator), &values(&b.generator)), once * a.generator.total);
    check("images", apart(&a.images, &b.images), once * largest(&a.images));
    let weight_of = |name: &str| {
        let weight = name.replace(".bias", ".weight");
        largest(&a.generator_grads.iter().find(|(n, _)| *n == weight).expect("a weight for every bias").1)
    };
    let (mut firm, mut all) = (0, 0);
    for (i, ((name, x), (_, y))) in a.generator_grads.iter().zip(&b.generator_grads).enumerate() {
        // A bias before a batch norm has gradient 0: what is there is rounding of its filter's.
        let scale = largest(x).max(if name.starts_with("conv") { weight_of(name) } else { 0.0 });
        check(&format!("gradient of generator {name}"), apart(x, y), twice * scale);
        // Adam's first step is lr times the gradient's sign (but for 1e-8 in the divisor), so it is the same wherever
        // rounding cannot change the sign, and two rates apart at most elsewhere.
        let moved = |s: &Single, j: usize| s.generator_params[1][i].1[j] - s.generator_params[0][i].1[j];
        let lr = recipe.generator.lr;
        let (mut close, mut loose) = (0.0f32, 0.0f32);
        for j in 0..x.len() {
            let difference = (moved(a, j) - moved(b, j)).abs();
            let sure = x[j].abs() > twice * scale && x[j].abs() > 1e-5;
            (firm, all) = (firm + usize::from(sure), all + 1);
            if sure { close = close.max(difference) } else { loose = loose.max(difference) }
        }
        // 1e-8 / 1e-5 of the rate, and the last bits of a parameter below 4.
        check(&format!("step of generator {name}"), close, 2e-3 * lr + 2f32.powi(-20));
        check(&format!("uncertain step of generator {name}"), loose, 2.01 * lr);
    }
    println!("{firm} of {all} steps have a certain sign");
    check("share of uncertain steps", 1.0 - firm as f32 / all as f32, 0.5);

    let allowed = 2.0 * 15.0 * once;
    let mut most = 0f32;
    for ((name, x), (_, y)) in a.relus.iter().zip(&b.relus) {
        let flips = x.iter().zip(y).filter(|(x, y)| (**x > 0.0) != (**y > 0.0)).count();
        let share = flips as f32 / x.len() as f32;
        check(&format!("share of flipped {name}"), share, allowed);
        most = most.max(share);
    }
    for ((name, x, step), (_, y, other)) in a.quantized.iter().zip(&b.quantized) {
        let levels = x.iter().map(|v| v.to_bits()).collect::<HashSet<u32>>().len();
        assert!((5..=16).contains(&levels), "{name}: {levels} values at 4 bits");
        let flips = x.iter().zip(y).filter(|(x, y)| !((*x - *y).abs() < step / 2.0)).count();
        let share = flips as f32 / x.len() as f32;
        check(&format!("share of flipped {name}"), share, allowed);
        most = most.max(share);
        check(&format!("step of {name}"), (step - other).abs(), once * step);
    }
    let flipped = 4.0 * (12.0 * most).sqrt();
    let noise = apart(&a.logits, &a.float_logits);
    assert!(noise > 100.0 * once * largest(&a.logits), "quantization changes nothing: {noise:e}");
    check("float logits", apart(&a.float_logits, &b.float_logits), once * largest(&a.float_logits));
    let logits = once * largest(&a.logits) + flipped * noise;
    check("logits", apart(&a.logits, &b.logits), logits);
    // Per unit of the logits a cross-entropy changes by at most 2 (two distributions' distance), and the KL term by 2 T,
    // over the number of classes in its element mean.
    let kl = recipe.student_loss.kl.as_ref().unwrap();
    let slope = 2.0 + 2.0 * kl.temperature / 10.0;
    let losses = once * a.student.total + slope * apart(&a.logits, &b.logits);
    check("student losses", apart(&values(&a.student), &values(&b.student)), losses);
    let mut worst = 0f32;
    for ((name, x), (_, y)) in a.student_grads.iter().zip(&b.student_grads) {
        worst = worst.max(apart(x, y));
        check(&format!("gradient of student {name}"), apart(x, y), (twice + flipped) * largest(x));
    }
    // SGD with Nesterov momentum moves by 1 + momentum < 2 rates at first.
    let student = 2.0 * recipe.student.lr * worst + 2f32.powi(-23) * largest(&a.student_params);
    check("student after its step", apart(&a.student_params, &b.student_params), student);
    faults
}

#[test]
fn single_steps_at_four_bits_agree() {
    let recipe = recipe("gdfq", &["batch=2", "iters=2", "warmup=1"]);
    assert_eq!((recipe.wbits, recipe.abits, recipe.batch), (4, 4, BATCH));
    let cpu = single(&Device::cpu(), &recipe, 0.0);
    let emulated = single(&Device::emulator().unwrap(), &recipe, 0.0);
    let found = faults(&cpu, &emulated, &recipe);
    assert!(found.is_empty(), "{}", found.join("\n"));
    // The comparison can fail: a tenth on one of the last layer's weights is found in every part that rests on it, and
    // a loss that does not belong to its logits is.
    let mut other = single(&Device::cpu(), &recipe, 0.1);
    let found = faults(&cpu, &other, &recipe).join("\n");
    for part in ["generator losses", "gradient of generator", "float logits", "\nlogits", "gradient of student"] {
        assert!(found.contains(part), "no {part} in:\n{found}");
    }
    (other.logits, other.student.total) = (cpu.logits.clone(), 1.01 * cpu.student.total);
    assert!(faults(&cpu, &other, &recipe).iter().any(|f| f.starts_with("student losses")));
}
