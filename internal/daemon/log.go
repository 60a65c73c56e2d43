package daemon

import (
	"bytes"
	"io"
	"log/slog"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/grpclog"

	"github.com/ratelimitd/ratelimitd/internal/config"
	"github.com/ratelimitd/ratelimitd/internal/logqueue"
	"github.com/ratelimitd/ratelimitd/internal/lograte"
)

// LogPatience is how long the end of the process waits until its last log lines
// are written.
const LogPatience = time.Second

// openLog returns what writes the log of the service to stderr. A log that nobody
// reads neither ends the service nor holds it up.
func openLog(c *config.Config, stderr io.Writer) *logqueue.Queue {
	// Otherwise Go ends a process that writes to a standard error which is a closed
	// pipe.
	signal.Ignore(syscall.SIGPIPE)
	return logqueue.New(stderr, func(lost uint64) []byte {
		var line bytes.Buffer
		c.Log.New(&line, new(slog.LevelVar)).Warn("log lines are lost, because nobody read the log, or not fast enough", "lines", lost)
		return line.Bytes()
	})
}

// A libraryLog is an io.Writer for the errors of a library. It hands them on to
// the log of the process, but not too often.
type libraryLog struct {
	gate    lograte.Gate
	library string
}

// Write implements io.Writer.
func (l *libraryLog) Write(line []byte) (int, error) {
	if n := l.gate.Pass(time.Now()); n > 0 {
		slog.Error("a library reports an error", "library", l.library, "error", strings.TrimSpace(string(line)), "errors", n)
	}
	return len(line), nil
}

// LogLibraries makes gRPC write its errors to the log of the process. By itself it
// would write to standard error, and wait for whoever reads that.
func LogLibraries() {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, &libraryLog{library: "grpc"}))
}
