// In the place of a runtime: what is fed goes to `fed.bin`, an output is what a file of its name
// holds, after the four sides of its shape.

#include <cstring>
#include <fstream>
#include <iterator>

#include "effsam_graph.hpp"

namespace effsam {

struct Graph::Opened {};

Graph::Graph(const std::string&, const std::string&) {}

std::map<std::string, Tensor> Graph::run(const Feeds& feeds,
                                         const std::vector<std::string>& outputs) {
  const std::vector<float>& fed = feeds.at("image")->values;
  std::ofstream("fed.bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(fed.data()), fed.size() * sizeof(float));
  std::map<std::string, Tensor> found;
  for (const std::string& name : outputs) {
    std::ifstream in(name + ".bin", std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(in)), {});
    std::vector<float> values(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    found[name] = {{values.begin(), values.begin() + 4}, {values.begin() + 4, values.end()}};
  }
  return found;
}

std::string Graph::device_name() const { return ""; }

std::string runtime_version() { return ""; }

}  // namespace effsam
