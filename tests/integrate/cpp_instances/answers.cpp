// A bundle and a photograph in `in.bin`; instances to `numbers.bin`, and what is asked for after
// them: a `mask` and its index, `everything`, or a `prompt` of so many points and a `box` or `-`.

#include <cstdio>
#include <fstream>
#include <iterator>

#include "effsam_segmenter.hpp"

int main(int argc, char** argv) {
  const effsam::Size size{std::stoi(argv[2]), std::stoi(argv[3])};
  std::ifstream in("in.bin", std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
  std::ofstream numbers("numbers.bin", std::ios::binary), masks("masks.bin", std::ios::binary);
  const auto write = [&numbers](const std::vector<float>& values) {
    numbers.write(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  };
  const auto show = [&masks, &write](const effsam::Mask& mask, float score) {
    masks.write(reinterpret_cast<const char*>(mask.data()), mask.size());
    write({score});
  };
  try {
    effsam::Segmenter segmenter(argv[1]);
    const effsam::Instances found = segmenter.find({size, {bytes.begin(), bytes.end()}});
    write({static_cast<float>(found.scores.size())});
    write({found.prototypes.shape.begin(), found.prototypes.shape.end()});
    for (const effsam::Box& box : found.boxes) write({box.begin(), box.end()});
    write(found.scores);
    for (const std::vector<float>& coefficients : found.coefficients) write(coefficients);
    write(found.prototypes.values);
    int at = 4;
    const auto next = [&at, argv] { return std::stod(argv[at++]); };
    while (at < argc) {
      const std::string what = argv[at++];
      if (what == "everything") {
        found.everything(show);
      } else if (what == "mask") {
        const auto index = static_cast<std::size_t>(next());
        show(found.mask(index), found.scores[index]);
      } else {
        effsam::Prompt prompt;
        for (int left = static_cast<int>(next()); left > 0; left--) {
          prompt.points.push_back({next(), next(), static_cast<int>(next())});
        }
        if (std::string(argv[at++]) == "box") prompt.box = {{next(), next(), next(), next()}};
        const effsam::Answer answer = segmenter.predict(found, prompt);
        show(answer.masks.at(0), answer.scores.at(0));
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s", error.what());
    return 1;
  }
}
