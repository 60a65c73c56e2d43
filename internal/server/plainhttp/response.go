package plainhttp

import (
	"bytes"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// maxWhole is how long an answer is whose length is said. A longer one has chunks, as in
// net/http.
const maxWhole = 2048

// A response is an http.ResponseWriter whose memory is used again.
type response struct {
	to       net.Conn
	now      time.Time    // of the request
	draining *atomic.Bool // whether there is to be no other after it
	header   http.Header
	code     int // 0: none was written

	out     bytes.Buffer // what is to be written to the connection
	body    []byte       // what comes after
	chunked bool
	last    bool // whether the connection ends with it
	err     error

	second int64 // that of date
	date   []byte
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// SetWriteDeadline is for http.ResponseController. It holds for this response.
func (w *response) SetWriteDeadline(t time.Time) error { return w.to.SetWriteDeadline(t) }

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(code int) {
	if w.code != 0 {
		return
	}
	w.code = code
	w.out.WriteString("HTTP/1.1 ")
	w.out.Write(strconv.AppendInt(w.out.AvailableBuffer(), int64(code), 10))
	w.out.WriteString(" " + http.StatusText(code) + "\r\n")
	_ = w.header.Write(&w.out) // it is in memory
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.err != nil {
		return 0, w.err
	}
	if !w.chunked && len(w.body)+len(p) <= maxWhole {
		w.body = append(w.body, p...)
		return len(p), nil
	}
	if !w.chunked {
		w.chunked = true
		w.endHeader("Transfer-Encoding: chunked\r\n")
		w.chunk(w.body)
	}
	w.chunk(p)
	return len(p), w.err
}

// chunk writes what is to be written, and p as a chunk after it.
func (w *response) chunk(p []byte) {
	if len(p) == 0 {
		return
	}
	w.out.Write(strconv.AppendInt(w.out.AvailableBuffer(), int64(len(p)), 16))
	w.out.WriteString("\r\n")
	w.flush()
	w.write(p)
	w.out.WriteString("\r\n")
}

// endHeader ends the header. encoding is its last field, or "" if its length is said.
func (w *response) endHeader(encoding string) {
	if second := w.now.Unix(); second != w.second || w.date == nil {
		w.second = second
		w.date = w.now.UTC().AppendFormat(w.date[:0], http.TimeFormat)
	}
	w.out.WriteString("Date: ")
	w.out.Write(w.date)
	w.out.WriteString("\r\n")
	if encoding == "" {
		w.out.WriteString("Content-Length: ")
		w.out.Write(strconv.AppendInt(w.out.AvailableBuffer(), int64(len(w.body)), 10))
		w.out.WriteString("\r\n")
	}
	if w.last = w.draining.Load(); w.last {
		w.out.WriteString("Connection: close\r\n")
	}
	w.out.WriteString(encoding)
	w.out.WriteString("\r\n")
}

// finish writes what is left, and makes w ready for the next response. It reports whether
// there may be one.
func (w *response) finish() (more bool) {
	if w.code == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.chunked {
		w.out.WriteString("0\r\n\r\n")
	} else {
		w.endHeader("")
		w.out.Write(w.body)
	}
	w.flush()
	clear(w.header)
	w.code, w.body, w.chunked = 0, w.body[:0], false
	return w.err == nil && !w.last
}

// flush writes what is to be written.
func (w *response) flush() {
	w.write(w.out.Bytes())
	w.out.Reset()
}

// write writes to the connection.
func (w *response) write(p []byte) {
	if w.err == nil {
		_, w.err = w.to.Write(p)
	}
}
