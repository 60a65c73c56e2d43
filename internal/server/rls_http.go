package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	rlsv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
)

// maxBodyBytes is how long the body of an HTTP request may be.
const maxBodyBytes = 1 << 20

// envoyJSON answers POST /json: ShouldRateLimit, with its messages as JSON. The
// status is 200, or 429 if the request is over a limit.
func (s *Server) envoyJSON(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if tooLong := new(http.MaxBytesError); errors.As(err, &tooLong) {
		http.Error(w, fmt.Sprintf("the body is longer than %d bytes", maxBodyBytes), http.StatusRequestEntityTooLarge)
		return
	} else if err != nil {
		http.Error(w, "the body can not be read: "+err.Error(), http.StatusBadRequest)
		return
	}
	in := &rlsv3.RateLimitRequest{}
	if err := protojson.Unmarshal(body, in); err != nil {
		http.Error(w, fmt.Sprintf("the body is no RateLimitRequest: %v; send one such as "+
			`{"domain": "edge", "descriptors": [{"entries": [{"key": "user", "value": "alice"}]}]}`, err), http.StatusBadRequest)
		return
	}
	out, err := envoyService{Server: s}.ShouldRateLimit(r.Context(), in)
	if err != nil {
		code := http.StatusServiceUnavailable
		if status.Code(err) == codes.InvalidArgument {
			code = http.StatusBadRequest
		}
		http.Error(w, status.Convert(err).Message(), code)
		return
	}
	text, err := protojson.Marshal(out)
	if err != nil {
		http.Error(w, "the answer can not be written: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if out.GetOverallCode() == rlsv3.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(text)
}

// healthcheck answers GET /healthcheck, as Envoy's service does: 500 when it is
// about to stop.
func (s *Server) healthcheck(w http.ResponseWriter, r *http.Request) {
	reply, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		http.Error(w, "stopping", http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "OK")
}

// showConfig answers GET /rlconfig: the configuration in force.
func (s *Server) showConfig(w http.ResponseWriter, _ *http.Request) {
	config := s.config.Load()
	fmt.Fprint(w, config.Envoy.String())
	if config.Text != "" {
		fmt.Fprintf(w, "namespaces:\n    %s", strings.ReplaceAll(strings.TrimSuffix(config.Text, "\n"), "\n", "\n    ")+"\n")
	}
}
