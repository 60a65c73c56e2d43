FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src

# Download the modules first. They change less often than the source, so Docker can cache this step.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download

COPY . .
ARG TARGETOS TARGETARCH VERSION=unknown
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$VERSION" -o /image/ratelimitd ./cmd/ratelimitd
# By this name Envoy Gateway starts it.
RUN mkdir /image/bin && ln -s /ratelimitd /image/bin/ratelimit

FROM scratch
# The certificates verify a Redis that the daemon reaches over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /image /
# Use a number. The image has no /etc/passwd, and runAsNonRoot of Kubernetes can only check a number.
USER 65532:65532
# 8081 is gRPC and 8080 is HTTP.
EXPOSE 8081 8080
ENTRYPOINT ["/ratelimitd"]
CMD ["serve"]
