# One image per service, and `carillon` with everything in one process (the last stage, so the default):
#
#   docker build --target gateway --tag carillon/gateway .        also: auth, fanout, carillon
#
# Works with BuildKit and with the classic builder. Everything is compiled once, in the stage `build`.

FROM rust:1.95-slim-trixie AS build
WORKDIR /src
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
# Dependencies first, from the manifests and empty sources: this layer stays as long as no manifest changes.
COPY Cargo.toml Cargo.lock ./
COPY proto/Cargo.toml proto/
COPY core/Cargo.toml core/
COPY platform/Cargo.toml platform/
COPY gateway/Cargo.toml gateway/
COPY auth-service/Cargo.toml auth-service/
COPY fanout-service/Cargo.toml fanout-service/
COPY loadtest/Cargo.toml loadtest/
COPY carillon/Cargo.toml carillon/
COPY xtask/Cargo.toml xtask/
RUN for crate in */; do \
      mkdir --parents "$crate/src" && echo 'fn main() {}' > "$crate/src/main.rs" && touch "$crate/src/lib.rs" || exit 1; \
    done \
 && echo 'fn main() {}' > proto/build.rs \
 && cargo build --release --locked --bins \
      --package carillon --package carillon-gateway --package carillon-auth --package carillon-fanout
COPY . .
# Sources that are older than the empty ones before them would be taken for built.
RUN find . -path ./target -prune -o -type f -exec touch {} + \
 && cargo build --release --locked --bins \
      --package carillon --package carillon-gateway --package carillon-auth --package carillon-fanout \
 && mkdir --parents /out/data \
 && cp target/release/carillon target/release/carillon-gateway target/release/carillon-auth target/release/carillon-fanout /out/

# libc, certificates, time zones; no shell, no package manager. Its user is 65532.
FROM gcr.io/distroless/cc-debian13:nonroot AS base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Carillon" \
      org.opencontainers.image.source="https://github.com/carillon-rt/carillon" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 65532:65532
# Drains; a second one ends at once.
STOPSIGNAL SIGTERM

FROM base AS gateway
LABEL org.opencontainers.image.title="carillon-gateway" \
      org.opencontainers.image.description="Holds the connections of clients"
COPY --from=build /out/carillon-gateway /usr/local/bin/
ENV CARILLON_LISTEN=0.0.0.0:8080 CARILLON_ADMIN_LISTEN=0.0.0.0:8081
EXPOSE 8080 8081
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["/usr/local/bin/carillon-gateway", "--health"]
ENTRYPOINT ["/usr/local/bin/carillon-gateway"]

FROM base AS auth
LABEL org.opencontainers.image.title="carillon-auth" \
      org.opencontainers.image.description="Verifies, issues and revokes tokens"
COPY --from=build /out/carillon-auth /usr/local/bin/
ENV CARILLON_LISTEN=0.0.0.0:8090 CARILLON_ADMIN_LISTEN=0.0.0.0:8091
EXPOSE 8090 8091
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["/usr/local/bin/carillon-auth", "--health"]
ENTRYPOINT ["/usr/local/bin/carillon-auth"]

FROM base AS fanout
LABEL org.opencontainers.image.title="carillon-fanout" \
      org.opencontainers.image.description="Orders and keeps what is published"
COPY --from=build /out/carillon-fanout /usr/local/bin/
ENV CARILLON_ADMIN_LISTEN=0.0.0.0:8092
EXPOSE 8092
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["/usr/local/bin/carillon-fanout", "--health"]
ENTRYPOINT ["/usr/local/bin/carillon-fanout"]

FROM base AS carillon
LABEL org.opencontainers.image.title="carillon" \
      org.opencontainers.image.description="Everything in one process, and the command line"
COPY --from=build /out/carillon /usr/local/bin/
COPY --from=build --chown=65532:65532 /out/data /var/lib/carillon
ENV CARILLON_LISTEN=0.0.0.0:8080 CARILLON_ADMIN_LISTEN=0.0.0.0:8081 CARILLON_DATA_DIR=/var/lib/carillon
VOLUME ["/var/lib/carillon"]
EXPOSE 8080 8081
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["/usr/local/bin/carillon", "health"]
ENTRYPOINT ["/usr/local/bin/carillon"]
CMD ["serve"]
