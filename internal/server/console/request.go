package console

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/auth"
	"github.com/ratelimitd/ratelimitd/internal/server/web"
)

// maxQuestionBytes is how long what the page asks is, but for policies and logs.
const maxQuestionBytes = 16 << 10

// isJSON reports whether a request says that its body is JSON.
func isJSON(r *http.Request) bool {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(kind) == "application/json"
}

// operator is who asks the core: whoever may administer the daemon may do this.
var operator = auth.Anonymous(auth.Decide, auth.Reset)

// who says who makes a request, for the log.
func who(r *http.Request) string {
	if c := auth.FromContext(r.Context()); c != nil && c.Name() != "" {
		return c.Name()
	}
	return r.RemoteAddr
}

// read reads the question of a request into v. It answers what is none, and reports
// whether it was one.
func read(w http.ResponseWriter, r *http.Request, maxBytes int64, v any) bool {
	body, err := web.ReadBody(w, r, maxBytes)
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		err = d.Decode(v)
	}
	if err != nil {
		http.Error(w, "the question cannot be read: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}
