# One image for web and workers. Without TRAIN it has no torch and cannot train.
#   docker build --build-arg TRAIN=1 .
FROM python:3.13-slim-bookworm

ARG TRAIN=""
ENV PYTHONUNBUFFERED=1 PLUMBLINE_HOME=/data PLUMBLINE_HOST=0.0.0.0
WORKDIR /plumbline

# The packages first: they change more rarely than the code.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir app plumbline trainer && touch app/__init__.py plumbline/__init__.py trainer/__init__.py \
 && pip install --no-cache-dir -c constraints.txt -e ".${TRAIN:+[train]}"
COPY app app
COPY plumbline plumbline
COPY trainer trainer
COPY templates templates
COPY migrations migrations

RUN useradd --system --home-dir /data plumbline && install -d -o plumbline /data
USER plumbline
VOLUME /data
EXPOSE 8000
CMD ["plumbline", "web"]
