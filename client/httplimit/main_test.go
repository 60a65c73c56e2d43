package httplimit

import (
	"os"
	"testing"

	"github.com/ratelimitd/ratelimitd/client/internal/testdaemon"
)

func TestMain(m *testing.M) { os.Exit(testdaemon.Main(m)) }
