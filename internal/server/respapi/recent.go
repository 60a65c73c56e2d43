package respapi

// A recentNumber is a number of the reply before, as a reply has it. The next reply mostly
// has the same limit, and with windows the same time until they are over.
type recentNumber struct {
	n    int64
	text []byte // nil: there is none yet
}

// append appends n.
func (r *recentNumber) append(b []byte, n int64) []byte {
	if r.n != n || r.text == nil {
		r.n, r.text = n, appendInt(r.text[:0], n)
	}
	return append(b, r.text...)
}

// A wholeRate is the text of a rate that came as two numbers. The next command mostly has
// the same.
type wholeRate struct{ count, period, text string }

// of returns the text of a rate.
func (w *wholeRate) of(count, period string) string {
	if w.count != count || w.period != period {
		*w = wholeRate{count, period, count + "/" + period + "s"}
	}
	return w.text
}

// A recentCommand is the one that came last. The next one mostly has the same name.
type recentCommand struct {
	name    string
	command command
}

// commandOf returns the command that has a name.
func (r *recentCommand) commandOf(name string) command {
	if r.name != name {
		*r = recentCommand{name, commandOf(name)}
	}
	return r.command
}
