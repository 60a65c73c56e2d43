package replay

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"io"
	"strings"
)

//go:embed report.html
var page string

// dataMark is where the page has its data.
const dataMark = "/*DATA*/"

// pageData is what the page shows: the report, and the points of its plots.
type pageData struct {
	*report
	Notes    []string       `json:"notes"`
	Timeline timelineReport `json:"timeline"`
	Ranks    []rank         `json:"ranks"`
	Plots    []plot         `json:"plots"` // of each limit
}

type plot struct {
	Times  []point
	Demand [][4]uint64 // from, to, identifiers, and how many of them were denied
	Limit  int64
}

// printHTML writes r as one page that needs nothing else.
func (r *report) printHTML(out io.Writer) error {
	p := pageData{report: r, Notes: r.notes(), Timeline: r.timeline, Ranks: r.ranks}
	for i := range r.Limits {
		l := &r.Limits[i]
		of := plot{Times: l.times, Limit: l.count, Demand: [][4]uint64{}}
		for b, n := range l.demand {
			if n.Identifiers > 0 {
				from, to := binBounds(b)
				of.Demand = append(of.Demand, [4]uint64{from, to, uint64(n.Identifiers), uint64(n.Denied)})
			}
		}
		p.Plots = append(p.Plots, of)
	}
	data, err := json.Marshal(p) // which escapes <, > and &, so that no name ends the script
	if err != nil {
		return err
	}
	before, after, _ := strings.Cut(strict(page), dataMark)
	_, err = io.WriteString(out, before+string(data)+after)
	return err
}

// strict returns a page whose security policy allows its own style and script, by their hashes,
// and nothing else.
func strict(page string) string {
	hash := func(start, end string) string {
		_, after, _ := strings.Cut(page, start)
		text, _, _ := strings.Cut(after, end)
		sum := sha256.Sum256([]byte(text))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return strings.NewReplacer("'STYLE'", hash("<style>", "</style>"), "'SCRIPT'", hash("<script>", "</script>")).Replace(page)
}
