// Layers of TensorFlow.js with their weights as saved, an input and its output.
//
//     npm install --no-save @tensorflow/tfjs@4.22.0
//     NODE_PATH=node_modules node tests/model/formats/generate_tfjs_layers.cjs
//
// Writes tfjs_layers_golden.json beside itself.
const fs = require("fs");
const path = require("path");
const tf = require("@tensorflow/tfjs");

const L = tf.layers;
const gates = { units: 3, useBias: false, returnSequences: true, recurrentActivation: "sigmoid" };
const CASES = {
  conv1d: [[7, 3], () => L.conv1d({ filters: 4, kernelSize: 3 })],
  conv2d: [[6, 5, 3], () => L.conv2d({ filters: 4, kernelSize: [3, 2] })],
  conv3d: [[4, 5, 4, 2], () => L.conv3d({ filters: 3, kernelSize: [2, 3, 2] })],
  turned: [[3, 4, 3], () => L.conv2dTranspose({ filters: 2, kernelSize: [3, 2] })],
  depthwise: [[6, 5, 3], () => L.depthwiseConv2d({ kernelSize: [3, 2], depthMultiplier: 2 })],
  separable: [[6, 5, 3], () => L.separableConv2d({ filters: 4, kernelSize: [3, 2], depthMultiplier: 2 })],
  dense: [[5], () => L.dense({ units: 4 })],
  embedding: [[2], () => L.embedding({ inputDim: 5, outputDim: 4, inputLength: 2 })],
  lstm: [[4, 5], () => L.lstm(gates)],
  gru: [[4, 5], () => L.gru({ ...gates, resetAfter: false })],
  rnn: [[4, 5], () => L.simpleRNN({ ...gates })],
  bidirectional: [[4, 5], () => L.bidirectional({ layer: L.lstm(gates), mergeMode: "concat" })],
};

async function main() {
  const found = {};
  let seed = 1;
  for (const [name, [shape, make]] of Object.entries(CASES)) {
    const layer = make();
    const input = tf.input({ shape });
    const model = tf.model({ inputs: input, outputs: layer.apply(input) });
    // Weights that no other layer has, and no ties between them.
    model.setWeights(model.getWeights().map((w) => tf.randomNormal(w.shape, 0, 1, "float32", seed++)));
    const indices = name === "embedding";
    const x = indices ? tf.tensor2d([[1, 4]]) : tf.randomNormal([1, ...shape], 0, 1, "float32", seed++);
    const y = model.predict(x);
    let saved;
    await model.save(tf.io.withSaveHandler(async (artifacts) => {
      saved = artifacts;
      return { modelArtifactsInfo: {} };
    }));
    found[name] = {
      modelTopology: saved.modelTopology,
      weights: saved.weightSpecs,
      data: Buffer.from(tf.io.CompositeArrayBuffer.join(saved.weightData)).toString("base64"),
      input: x.arraySync(),
      output: y.arraySync(),
    };
  }
  const file = path.join(__dirname, "tfjs_layers_golden.json");
  fs.writeFileSync(file, JSON.stringify(found, null, 1) + "\n");
}

main();
