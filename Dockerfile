# One image for CPU and GPU: PyPI's torch brings its CUDA libraries.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

# The malloc settings keep large activations mapped between steps; without them a CPU at full
# image size spends its time in page faults (see docs/cluster.md).
ENV LUMIN_DATA=/data LUMIN_OUT=/outputs TORCH_HOME=/outputs/.torch MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
WORKDIR /lumin
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
RUN useradd --create-home lumin && mkdir /data /outputs && chown lumin /data /outputs
COPY repro.py .
COPY lumin lumin
USER lumin
VOLUME ["/data", "/outputs"]
HEALTHCHECK --interval=1h --timeout=2m CMD ["python", "repro.py", "doctor", "--demo"]
ENTRYPOINT ["python", "repro.py"]
CMD ["all"]
