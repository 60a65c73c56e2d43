package target

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	envoyv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ratelimitd/ratelimitd/internal/connect"
)

// maxReply bounds how much of a reply is read.
const maxReply = 1 << 20

// httpSession posts JSON. It makes the text around the identifier only once.
type httpSession struct {
	client        *http.Client
	link          connect.Link
	url           string
	before, after string
	body          bytes.Buffer
	reply         bytes.Buffer
	protocol      string
}

func newHTTP(o *Options, client *http.Client) *httpSession {
	before, after, _ := strings.Cut(jsonOf(o), placeholder)
	return &httpSession{client: client, link: o.Link, url: o.Link.Scheme() + "://" + o.Addr + o.Path, before: before, after: after, protocol: o.Protocol}
}

// jsonOf returns the text of a request with the placeholder for its identifier.
func jsonOf(o *Options) string {
	var in proto.Message
	switch o.Protocol {
	case ThrottlecrabHTTP:
		return throttleJSON(o)
	case LimitadorHTTP:
		return limitadorJSON(o)
	case EnvoyHTTP:
		request, entry := o.envoyRequest()
		entry.Value = placeholder
		in = request
	default:
		request := o.request()
		request.Identifier = placeholder
		in = request
	}
	text, err := protojson.Marshal(in)
	if err != nil {
		panic(err) // a bug: this package makes the message, and the flags were checked
	}
	return string(text)
}

func (s *httpSession) Ask(ctx context.Context, identifiers []string, verdicts []Verdict) error {
	s.body.Reset()
	s.body.WriteString(s.before)
	s.body.WriteString(identifiers[0]) // needs no escaping: the load test makes it
	s.body.WriteString(s.after)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(s.body.Bytes()))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	s.link.Authorize(request)
	response, err := s.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	s.reply.Reset()
	if _, err := s.reply.ReadFrom(io.LimitReader(response.Body, maxReply)); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK && response.StatusCode != http.StatusTooManyRequests {
		return fmt.Errorf("status %s: %.200s", response.Status, strings.TrimSpace(s.reply.String()))
	}
	verdicts[0], err = s.verdict(response.StatusCode)
	return err
}

func (s *httpSession) verdict(status int) (Verdict, error) {
	if s.protocol == LimitadorHTTP { // its body says nothing
		if status == http.StatusOK {
			return Allowed, nil
		}
		return Denied, nil
	}
	var reply struct {
		Allowed     bool   `json:"allowed"`
		Reason      string `json:"reason"`
		OverallCode string `json:"overallCode"`
	}
	if err := json.Unmarshal(s.reply.Bytes(), &reply); err != nil {
		return Failed, fmt.Errorf("the reply is not an answer in JSON: %w: %.200s", err, s.reply.String())
	}
	switch {
	case s.protocol == EnvoyHTTP:
		return envoyVerdict(envoyv3.RateLimitResponse_Code(envoyv3.RateLimitResponse_Code_value[reply.OverallCode])), nil
	case reply.Reason == "STORE_FAILURE":
		return StoreFailed, nil
	case reply.Allowed:
		return Allowed, nil
	default:
		return Denied, nil
	}
}
