//! The default recipe runs on networks that lack what its terms look at, and the terms find what there is.

#[allow(dead_code, reason = "other tests use the rest")]
mod onnx_models;

use flate2::read::GzDecoder;
use ghostbit::data::Normalization;
use ghostbit::deploy::lower;
use ghostbit::device::Device;
use ghostbit::graph::passes::{QuantizeSpec, fold_bn, quantize, tune_bn};
use ghostbit::graph::{Block, Graph, HeadForm, Network, NodeId};
use ghostbit::methods::Recipe;
use ghostbit::models::onnx::Imported;
use ghostbit::models::resnet::cifar_resnet;
use ghostbit::ops::random;
use ghostbit::tensor::Shape;
use ghostbit::train::{Event, QuantizeRun};
use onnx_models::{Model, float, int, ints};
use std::io::Read;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn network(model: &Model) -> Network {
    let imported = Imported::parse(&model.bytes(), "net").unwrap_or_else(|e| panic!("{e}"));
    imported.network(&Device::cpu(), Path::new("net.onnx")).unwrap()
}

/// 8x8 images: the classifier is a convolution in front of the pooling, as in SqueezeNet.
fn conv_classifier() -> Model {
    let mut m = Model::new([3, 8, 8]);
    m.conv_bn("x", "stem", [6, 3, 3], vec![ints("strides", &[2, 2]), ints("pads", &[1; 4])]);
    m.node("Relu", &["stem_bn"], "stem_relu", vec![]);
    let (w, b) = (m.drawn("last.weight", &[10, 6, 1, 1], -0.5), m.drawn("last.bias", &[10], -0.5));
    m.node("Conv", &["stem_relu", &w, &b], "last", vec![]);
    m.node("Relu", &["last"], "last_relu", vec![]);
    m.node("GlobalAveragePool", &["last_relu"], "mean", vec![]);
    m.node("Flatten", &["mean"], "y", vec![]);
    m
}

/// 8x8 images: a flattened map and two linear layers with a batch norm of rows between them, as in VGG.
fn two_linear_layers() -> Model {
    let mut m = Model::new([3, 8, 8]);
    for (name, input, c) in [("first", "x", 3), ("second", "first_relu", 6)] {
        m.conv_bn(input, name, [6, c, 3], vec![ints("strides", &[2, 2]), ints("pads", &[1; 4])]);
        m.node("Relu", &[&format!("{name}_bn")], &format!("{name}_relu"), vec![]);
    }
    m.node("Flatten", &["second_relu"], "flat", vec![]);
    let (w, b) = (m.drawn("hidden.weight", &[7, 24], -0.5), m.drawn("hidden.bias", &[7], -0.5));
    m.node("Gemm", &["flat", &w, &b], "hidden", vec![int("transB", 1)]);
    let parts = [("weight", 0.5), ("bias", -0.5), ("mean", -0.5), ("var", 0.5)];
    let parts = parts.map(|(part, low)| m.drawn(&format!("rows.{part}"), &[7], low));
    let inputs: Vec<&str> = ["hidden"].into_iter().chain(parts.iter().map(|s| &s[..])).collect();
    m.node("BatchNormalization", &inputs, "rows", vec![float("epsilon", 1e-4)]);
    m.node("Relu", &["rows"], "rows_relu", vec![]);
    m.gemm("rows_relu", [10, 7]);
    m
}

const SHORT: [&str; 8] = [
    "batch=8",
    "iters=5",
    "warmup=3",
    "eval_every=5",
    "images.count=16",
    "images.iters=3",
    "ranges.batches=1",
    "reconstruction.iters=2",
];

/// The default recipe, short and fitted to `graph`, and what it says about that.
fn fitted(graph: &Graph) -> (Recipe, Vec<String>) {
    let mut recipe = Recipe::load("best").unwrap();
    for s in SHORT {
        recipe.set(s).unwrap();
    }
    let said = recipe.adapt(graph, &SHORT.map(String::from));
    (recipe, said)
}

/// Runs `recipe` to its end and lowers the student; returns names of the terms seen.
fn run(teacher: Network, recipe: &Recipe) -> Vec<&'static str> {
    let mut run = QuantizeRun::new(&Device::cpu(), teacher, Normalization::CIFAR, recipe.clone()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut terms = Vec::new();
    let summary = run.run(&[], folder.path(), 0, &AtomicBool::new(false), &mut |e| {
        if let Event::Student { losses, .. } = e {
            assert!(losses.total.is_finite() && losses.terms.iter().all(|t| t.1.is_finite()), "{losses:?}");
            terms = losses.terms.iter().map(|t| t.0).collect();
        }
        Ok(())
    });
    let selected = run.into_selected(&[], &summary.unwrap()).unwrap().network;
    lower(&selected, Normalization::CIFAR).unwrap();
    terms
}

#[test]
fn the_default_recipe_runs_on_every_kind_of_network() {
    let plain: [(&str, Model); 6] = [
        ("residual", onnx_models::residual(3)),
        ("five channels", onnx_models::residual(5)),
        ("branches", onnx_models::branches()),
        ("flattened", onnx_models::flattened()),
        ("conv classifier", conv_classifier()),
        ("two linear layers", two_linear_layers()),
    ];
    for (name, model) in plain {
        let teacher = network(&model);
        let (recipe, said) = fitted(&teacher.graph);
        assert!(said.is_empty(), "{name}: {said:?}");
        assert_eq!(run(teacher, &recipe), ["kl", "feature_mse"], "{name}");
    }
    let folded = [("residual", onnx_models::residual(1)), ("flattened", onnx_models::flattened())];
    for (name, model) in folded.into_iter().chain([("conv classifier", conv_classifier())]) {
        let teacher = fold_bn(&network(&model)).unwrap();
        let (recipe, said) = fitted(&teacher.graph);
        assert!(said.len() == 1 && said[0].contains("batch norms"), "{name}: {said:?}");
        assert_eq!(run(teacher, &recipe), ["kl", "feature_mse"], "{name}, folded");
    }
}

/// The generator makes no such sizes: images come from noise, and the iterations that remain are student steps.
#[test]
fn odd_sizes_are_made_from_noise() {
    let mut model = onnx_models::residual(3);
    model.graph.input[0] = onnx_models::value("x", &[0, 3, 9, 11]);
    let teacher = network(&model);
    let (recipe, said) = fitted(&teacher.graph);
    assert!(said[0].contains("9x11") && said[0].contains("2 student steps"), "{said:?}");
    assert_eq!(run(teacher, &recipe), ["kl", "feature_mse"]);
}

/// Statistics per sample make no sense for rows; these methods take them over the batch, or leave them out.
#[test]
fn batch_norms_of_rows_do_not_stop_statistics_of_samples() {
    for (name, set) in [
        ("zeroq", &["images.count=8"][..]),
        ("dsg-ptq", &["images.count=8"]),
        ("dsg", &["warmup=2", "iters=3"]),
        ("clusterq", &["warmup=2", "iters=3", "generator_loss.cluster.start=0", "generator_loss.cluster.every=1"]),
    ] {
        let mut recipe = Recipe::load(name).unwrap();
        recipe.set("batch=4").unwrap();
        if recipe.images.is_some() {
            recipe.set("images.iters=2").unwrap();
        }
        for s in set {
            recipe.set(s).unwrap();
        }
        run(network(&two_linear_layers()), &recipe);
    }
}

#[test]
fn terms_that_a_network_cannot_serve_name_their_key() {
    let folded = fold_bn(&network(&onnx_models::residual(3))).unwrap();
    let unpooled = network(&two_linear_layers());
    for (name, graph, words) in [
        ("gdfq", &folded.graph, ["generator_loss.bn_stats.weight", "--method"]),
        ("genie", &folded.graph, ["images.loss.slack_stats.weight", "--images"]),
        ("synq", &unpooled.graph, ["student_loss.cam.weight", "global average pool"]),
    ] {
        let message = Recipe::load(name).unwrap().check_teacher(graph).unwrap_err().to_string();
        assert!(words.iter().all(|w| message.contains(w)), "{name}: {message}");
    }
}

/// Names of nodes, of quantizers those of what they quantize.
fn names(graph: &Graph, nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(|&id| graph.nodes[id].name.trim_end_matches(".quant").to_string()).collect()
}

/// What student and teacher are compared by lies at the same places in both, however the student is put together.
#[test]
fn compared_maps_are_the_same_in_teacher_and_student() {
    let models = [onnx_models::branches(), onnx_models::flattened(), conv_classifier(), two_linear_layers()];
    for model in models {
        let teacher = network(&model).graph;
        let student = quantize(&teacher, QuantizeSpec { input_bits: Some(8), ..QuantizeSpec::new(4, 4) }).unwrap();
        let (a, b) = (teacher.compared_maps().unwrap(), student.compared_maps().unwrap());
        assert!(!a.is_empty());
        assert_eq!(names(&teacher, &a), names(&student, &b));
        let tuned = tune_bn(&student);
        let shapes = |g: &Graph, nodes: &[NodeId]| -> Vec<Shape> {
            let all = g.shapes(1).unwrap();
            nodes.iter().map(|&id| all[id]).collect()
        };
        assert_eq!(shapes(&teacher, &a), shapes(&tuned, &tuned.compared_maps().unwrap()));
    }
    let resnet = cifar_resnet(3, 10);
    assert_eq!(resnet.compared_maps().unwrap(), resnet.residual_bodies());
    assert_eq!(resnet.residual_bodies().len(), 9);
}

/// Narrow twins of networks that people have, by file.
fn twins() -> Vec<(String, Graph)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/networks/twins");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut data = Vec::new();
        if name.ends_with(".onnx.gz") {
            GzDecoder::new(std::fs::File::open(&path).unwrap()).read_to_end(&mut data).unwrap();
            // What is not understood is for other tests.
            found.extend(Imported::parse(&data, &name).ok().map(|i| (name, i.graph)));
        }
    }
    found
}

/// The terms of the default recipe, and its blocks, fit all networks that people have.
#[test]
fn the_default_recipe_fits_networks_that_people_have() {
    let twins = twins();
    assert!(twins.len() > 40, "{} twins", twins.len());
    for (name, teacher) in twins {
        let mut recipe = Recipe::load("best").unwrap();
        recipe.adapt(&teacher, &[]);
        recipe.validate().and_then(|()| recipe.check_teacher(&teacher)).unwrap_or_else(|e| panic!("{name}: {e}"));
        teacher.head("a test").unwrap_or_else(|e| panic!("{name}: {e}"));
        let student = quantize(&teacher, recipe.quantize_spec()).unwrap();
        let (a, b) = (teacher.compared_maps().unwrap(), student.compared_maps().unwrap());
        assert_eq!(names(&teacher, &a), names(&student, &b), "{name}");
        // Every quantizer lies in one block, and blocks end where the teacher has a node.
        let blocks = student.blocks().unwrap();
        let inside = |b: &Block| {
            let needed = student.needed(&[b.to], [b.from]).unwrap_or_else(|e| panic!("{name}: {e}"));
            student.quantizers().iter().filter(|q| needed[q.node] && q.node != b.from).count()
        };
        assert_eq!(blocks.iter().map(inside).sum::<usize>(), student.quantizers().len(), "{name}");
        for b in &blocks {
            teacher.node(&student.nodes[b.to].name).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
}

#[test]
fn heads_are_found_behind_any_classifier() {
    let found = |model: &Model| {
        let graph = network(model).graph;
        let head = graph.head("a test").unwrap();
        let name = |id: NodeId| graph.nodes[id].name.clone();
        let row = head.features.map(|id| graph.shapes(1).unwrap()[id][1]);
        (name(head.map), row, head.form)
    };
    assert_eq!(found(&onnx_models::residual(3)), ("last_relu".into(), Some(6), HeadForm::Pooled));
    assert_eq!(found(&onnx_models::flattened()), ("pool".into(), Some(16), HeadForm::Linear));
    assert_eq!(found(&two_linear_layers()), ("second_relu".into(), Some(7), HeadForm::Linear));
    assert_eq!(found(&conv_classifier()), ("stem_relu".into(), None, HeadForm::Other));
    let resnet = cifar_resnet(1, 10);
    let student = quantize(&resnet, QuantizeSpec::new(4, 4)).unwrap();
    let (head, quantized) = (resnet.head("a test").unwrap(), student.head("a test").unwrap());
    assert_eq!(head.form, HeadForm::Pooled);
    assert_eq!(student.nodes[quantized.map].name, format!("{}.quant", resnet.nodes[head.map].name));
    assert!(Graph::new("empty", 1).head("a test").is_err());
}

/// Images of the caller become the stored ones, with the teacher's labels; a part is only compared on.
#[test]
fn given_images_take_the_place_of_synthetic_ones() {
    let mut recipe = Recipe::load("best").unwrap();
    for s in SHORT {
        recipe.set(s).unwrap();
    }
    recipe.take_images();
    let run = || {
        let teacher = network(&onnx_models::residual(3));
        QuantizeRun::new(&Device::cpu(), teacher, Normalization::CIFAR, recipe.clone()).unwrap()
    };
    let images = |n: usize, c: usize| random::normal(&Device::cpu(), [n, 8, 8, c], 3, 4).unwrap();
    let message = run().give_images(images(15, 3)).unwrap_err().to_string();
    assert!(message.contains("--images") && message.contains("two batches of 8"), "{message}");
    assert!(run().give_images(images(24, 1)).is_err());
    let folder = tempfile::tempdir().unwrap();
    let quiet = AtomicBool::new(false);
    assert!(run().run(&[], folder.path(), 0, &quiet, &mut |_| Ok(())).is_err(), "no images were given");

    let mut run = run();
    run.give_images(images(24, 3)).unwrap();
    let summary = run.run(&[], folder.path(), 0, &quiet, &mut |_| Ok(())).unwrap();
    assert_eq!(summary.last.it, 2, "the steps behind the warm-up that fell away");
    let pool = run.pool.as_ref().unwrap();
    assert_eq!((pool.labels.len(), run.held_out.len()), (16, 1));
    assert_eq!(pool.all().unwrap().to_vec::<f32>().unwrap(), images(24, 3).to_vec::<f32>().unwrap()[..16 * 192]);
    let stored = run.diagnose().unwrap();
    assert_eq!((stored.len(), stored[0].1.label_agreement), (1, 1.0));
}
