#include "stepward/error.h"

namespace stepward {

const char* error_code_name(ErrorCode code) {
  switch (code) {
#define STEPWARD_ERROR(name, exit_code, meaning) \
  case ErrorCode::name:                          \
    return #name;
#include "stepward/error_codes.def"
#undef STEPWARD_ERROR
  }
  return "INTERNAL";
}

}  // namespace stepward
