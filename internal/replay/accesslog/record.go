package accesslog

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// MaxLineBytes is how long a line may be. A longer one is not read.
const MaxLineBytes = 1 << 20

// A Record is one request of a log. The zero Record is ready for Parse. Its memory is used
// again with each line.
type Record struct {
	At     int64    // in microseconds since the Unix epoch
	Values [][]byte // of the fields that the Parser was made for, in their order; empty: it has none

	NoZone bool // the log did not say of which time zone At is

	scratch []byte // holds values that are not in the line as they are
}

// A Format is how a log is written.
type Format string

// The formats.
const (
	Combined  Format = "combined" // of nginx and Apache; vhost_combined; and the common format without the last two fields
	Caddy     Format = "caddy"
	Traefik   Format = "traefik" // as JSON
	Envoy     Format = "envoy"   // Envoy's default, and Istio's
	EnvoyJSON Format = "envoy-json"
	ALB       Format = "alb" // of AWS Application Load Balancers
	CSV       Format = "csv" // whose first line names the columns
	JSON      Format = "json"
)

// Formats lists them.
var Formats = []Format{Combined, Caddy, Traefik, Envoy, EnvoyJSON, ALB, CSV, JSON}

// String returns what a person calls f.
func (f Format) String() string {
	switch f {
	case Combined:
		return "combined format of nginx and Apache"
	case Caddy:
		return "JSON of Caddy"
	case Traefik:
		return "JSON of Traefik"
	case Envoy:
		return "Envoy's default format"
	case EnvoyJSON:
		return "JSON of Envoy"
	case ALB:
		return "log of an AWS Application Load Balancer"
	case CSV:
		return "CSV"
	case JSON:
		return "JSON lines"
	default:
		return string(f)
	}
}

// A Problem is why a line gives no record. There are few, whatever is in the line, so that
// they can be counted by kind.
type Problem string

// The problems. None is no problem; Nothing is a line that has no record and needs none, such
// as an empty one.
const (
	None      Problem = ""
	Nothing   Problem = "nothing"
	TooLong   Problem = "longer than 1 MiB"
	NoTime    Problem = "no time"
	BadTime   Problem = "a time that cannot be read"
	NotFormat Problem = "not of the format"
	NotJSON   Problem = "not a JSON object"
)

// Options say how to make a Parser.
type Options struct {
	Format Format
	// Fields are what is wanted of each record. ClientAddress and others are known in all
	// formats; JSON and CSV have any other, by its own name.
	Fields []string
	// Names say where a field of JSON or CSV is: client_address is in "ip", or in
	// "request.peer.ip". "time" may be among them.
	Names map[string]string
	Zone  *time.Location // of times that do not name theirs; nil: UTC
	// Header is the first line of a CSV.
	Header string
}

// Fields that are known in all formats which have them.
const (
	ClientAddress = "client_address" // without a port; the last of an X-Forwarded-For
	Path          = "path"           // without its query
	timeField     = "time"
)

// unknownField says that a format does not have a field.
func unknownField(f Format, field string, known []string) error {
	return fmt.Errorf("field %s: the %s has none of this name; use one of %s", quote.Cut(field), f, strings.Join(slices.Compact(slices.Sorted(slices.Values(known))), ", "))
}
