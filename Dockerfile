# For CI: every toolchain that installs from the package registries. No weights are in it.
#   docker build -t effsam .
#   docker run --rm -v "$PWD:/work" effsam build --jobs 2 --cache-dir .effsam-cache
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 effsam
WORKDIR /opt/effsam
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY effsam_export effsam_export
COPY targets targets
COPY calibration calibration
RUN pip install --no-cache-dir --constraint constraints.txt ".[torch,onnx,openvino,coreml,tflite,tensorrt-rtx,tensorrt,int8,sign,eval,cluster]"

USER 1000
WORKDIR /work
ENTRYPOINT ["effsam"]
CMD ["--help"]
