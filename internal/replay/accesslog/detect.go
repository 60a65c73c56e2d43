package accesslog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// Detect returns the format that most of the first lines of a log have. Names are those of
// Options. The error shows a line that is of no format that is known.
func Detect(lines []string, names map[string]string) (Format, error) {
	if len(lines) == 0 {
		return "", errors.New("it has no lines")
	}
	for _, f := range []Format{Caddy, Traefik, EnvoyJSON, JSON, ALB, Envoy, Combined, CSV} {
		if likely(f, lines, names) {
			return f, nil
		}
	}
	return "", fmt.Errorf("its format is not known: the first line is %s. Say it with --format, and where the fields of JSON or CSV are with --field, as in --field=time=when", quote.Cut(lines[0]))
}

// likely reports whether more than half of lines are of format f.
func likely(f Format, lines []string, names map[string]string) bool {
	o := Options{Format: f, Names: names}
	switch f {
	case Caddy, Traefik: // whose time and address have names of their own
		o.Fields = []string{ClientAddress}
		o.Names = maps.Clone(names)
		delete(o.Names, ClientAddress)
		delete(o.Names, timeField)
	case EnvoyJSON:
		o.Fields, o.Names = []string{"response_code"}, map[string]string{timeField: "start_time"}
	case CSV:
		o.Header = lines[0]
		if lines = lines[1:]; len(lines) == 0 {
			return false
		}
	default:
	}
	p, err := NewParser(o)
	if err != nil {
		return false
	}
	good := 0
	var r Record
	for _, line := range lines {
		if f == ALB && !bytes.Contains([]byte(line), []byte(" app/")) {
			continue
		}
		if p.Parse([]byte(line), &r) == None && (len(o.Fields) == 0 || len(r.Values[0]) > 0) {
			good++
		}
	}
	return good*2 > len(lines)
}
