// Asks Transformers.js for the masks of prompts on one image, as an app does.
// `save(name, data)` keeps the pixels that it fed and its masks; points, sizes and scores are
// returned.
export async function ask({ AutoProcessor, RawImage, SamModel }, given, save) {
  const model = await SamModel.from_pretrained(given.name, given.options);
  const processor = await AutoProcessor.from_pretrained(given.name);
  const picture = await RawImage.read(given.image);
  const answers = [];
  let embeddings = null;
  for (const [i, prompts] of given.questions.entries()) {
    const inputs = await processor(picture, prompts);
    if (embeddings === null) {
      embeddings = await model.get_image_embeddings(inputs);
      await save("pixels.bin", inputs.pixel_values.data);
    }
    const { pred_masks, iou_scores } = await model({ ...inputs, ...embeddings });
    const [masks] = await processor.post_process_masks(
      pred_masks, inputs.original_sizes, inputs.reshaped_input_sizes);
    await save(`masks${i}.bin`, masks.data);
    answers.push({
      dims: masks.dims,
      scores: Array.from(iou_scores.data),
      points: Array.from(inputs.input_points.data),
      resized: inputs.reshaped_input_sizes[0],
    });
  }
  return answers;
}
