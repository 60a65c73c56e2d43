FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src

# Modules first: they change seldom, the source often.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download

COPY . .
ARG TARGETOS TARGETARCH VERSION=unknown
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$VERSION" -o /ratelimitd ./cmd/ratelimitd

FROM scratch
# To verify a store that is reached over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /ratelimitd /ratelimitd
# By number: there is no /etc/passwd here, and runAsNonRoot wants one it can check.
USER 65532:65532
# gRPC and HTTP.
EXPOSE 8081 8080
ENTRYPOINT ["/ratelimitd"]
CMD ["serve"]
