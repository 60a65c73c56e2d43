package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/durations"
	"github.com/ratelimitd/ratelimitd/internal/strategy"
	ratelimitv1 "github.com/ratelimitd/ratelimitd/proto/ratelimit/v1"
)

// shouldAllowHTTP answers POST /v1/should-allow: ShouldAllow as JSON.
func (s *Server) shouldAllowHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		s.refuseHTTP(w, http.StatusMethodNotAllowed, "method", fmt.Sprintf("%.32q; use POST", r.Method))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBodyBytes))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		s.refuseHTTP(w, http.StatusRequestEntityTooLarge, "body", fmt.Sprintf("longer than %d bytes; no valid request is", maxBodyBytes))
		return
	}
	if err != nil {
		s.refuseHTTP(w, http.StatusBadRequest, "body", "ended early")
		return
	}
	defer s.metrics.latency[methodHTTP].Since(durations.Start())
	in := new(ratelimitv1.ShouldAllowRequest)
	if err := protojson.Unmarshal(body, in); err != nil {
		s.refuseHTTP(w, http.StatusBadRequest, "body", undecodable(err)+`; send such as {"namespace": "checkout", "identifier": "user:42", "limits": [{"rate": "100/min"}]}`)
		return
	}
	response, err := s.decideHTTP(w, r, in)
	if err != nil {
		writeError(w, httpCode(err), err)
		return
	}
	writeMessage(w, http.StatusOK, response)
}

// decideHTTP decides in, and sets the headers of the answer.
func (s *Server) decideHTTP(w http.ResponseWriter, r *http.Request, in *ratelimitv1.ShouldAllowRequest) (response *ratelimitv1.ShouldAllowResponse, err error) {
	w.Header()["Cache-Control"] = noStore
	s.decide(r.Context(), []*ratelimitv1.ShouldAllowRequest{in}, func(_ int, limits []strategy.Limit, answer *ratelimitv1.ShouldAllowResponse, e error) {
		if response, err = answer, e; err == nil {
			setRateLimitHeaders(w.Header(), limits, answer)
		}
	})
	return response, err
}

var noStore = []string{"no-store"}

// refuseHTTP answers a request that is wrong before it can be decided.
func (s *Server) refuseHTTP(w http.ResponseWriter, code int, field, description string) {
	s.metrics.refused.Inc()
	writeError(w, code, invalid(field, description))
}

// undecodable returns what err of protojson says, which words the same error
// now with one kind of space and now with another.
func undecodable(err error) string {
	return strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: ")
}

// writeMessage writes m with the fields that are false or 0, so that a denial
// says so.
func writeMessage(w http.ResponseWriter, code int, m proto.Message) {
	body, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil { // a name is not UTF-8, say
		code, body = http.StatusInternalServerError, []byte(`{"code":13,"message":"the answer can not be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
