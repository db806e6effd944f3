# Builds a statically linked binary and puts nothing else into the image: no shell, no package, no root.
FROM rust:1-slim-bookworm AS build
WORKDIR /source
COPY Cargo.toml Cargo.lock clippy.toml ./
COPY src ./src
# The target is named so that build scripts and macros are not built statically as well.
RUN target=$(rustc -vV | sed -n 's/^host: //p') \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$target" \
 && mkdir -p /out/data && cp "target/$target/release/quorate" /out/quorate

FROM scratch
COPY --from=build /out/quorate /quorate
# A new named volume takes this directory's owner, so that the node can write without being root.
COPY --from=build --chown=10001:10001 /out/data /data
USER 10001:10001
EXPOSE 7001 8001
ENTRYPOINT ["/quorate"]
CMD ["serve"]
