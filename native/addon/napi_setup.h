// The one place that includes napi.h, so that its configuration is the same everywhere.
#pragma once

#ifndef NAPI_VERSION
#define NAPI_VERSION 9  // Node 20.17 and newer
#endif
// Every std::exception that escapes an entry becomes a JavaScript error instead of ending the process.
#ifndef NODE_ADDON_API_CPP_EXCEPTIONS_ALL
#define NODE_ADDON_API_CPP_EXCEPTIONS_ALL
#endif
// A worker that is being terminated cannot take exceptions any more; dropping them beats aborting the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#define NODE_ADDON_API_DISABLE_DEPRECATED

#include <napi.h>
