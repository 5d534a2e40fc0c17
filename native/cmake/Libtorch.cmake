# Imported target stepward::torch for the libtorch in STEPWARD_TORCH (a torch package folder: include/, lib/, share/).
# TorchConfig.cmake is not used: it searches system folders first (a Debian libtorch shadows the asked one), and on a CUDA
# wheel it wants a full toolkit even for a CPU build. The libraries are named here instead, and only looked for in lib/.

set(STEPWARD_TORCH "" CACHE PATH "torch package folder; default: LIBTORCH, else the active Python's torch")
set(STEPWARD_TORCH_MIN 2.11)
set(STEPWARD_TORCH_BELOW 2.15)

if(NOT STEPWARD_TORCH)
  if(DEFINED ENV{LIBTORCH})
    set(_torch $ENV{LIBTORCH})
  else()
    find_program(STEPWARD_PYTHON NAMES python3 python)
    if(STEPWARD_PYTHON)
      execute_process(
        COMMAND ${STEPWARD_PYTHON} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
        OUTPUT_VARIABLE _torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
  endif()
  if(NOT _torch AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/../.libtorch/torch/lib)
    set(_torch ${CMAKE_CURRENT_SOURCE_DIR}/../.libtorch/torch)
  endif()
  if(NOT _torch)
    message(FATAL_ERROR "libtorch was not found. Pass -DSTEPWARD_TORCH=DIR, set LIBTORCH=DIR, activate a Python with "
                        "torch installed, or run 'npm run setup', which fetches a private copy.")
  endif()
  set(STEPWARD_TORCH ${_torch} CACHE PATH "torch package folder" FORCE)
endif()

get_filename_component(TORCH_ROOT ${STEPWARD_TORCH} REALPATH)

set(TORCH_VERSION "")
foreach(_header include/torch/headeronly/version.h include/torch/csrc/api/include/torch/version.h)
  if(NOT TORCH_VERSION AND EXISTS ${TORCH_ROOT}/${_header})
    file(STRINGS ${TORCH_ROOT}/${_header} _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
    string(REGEX MATCHALL "[0-9]+" _numbers "${_lines}")
    string(REPLACE ";" "." TORCH_VERSION "${_numbers}")
  endif()
endforeach()
if(NOT TORCH_VERSION)
  message(FATAL_ERROR "${STEPWARD_TORCH} is not a torch package folder: expected include/torch/headeronly/version.h in it.")
endif()
if(TORCH_VERSION VERSION_LESS STEPWARD_TORCH_MIN OR TORCH_VERSION VERSION_GREATER_EQUAL STEPWARD_TORCH_BELOW)
  message(FATAL_ERROR "libtorch in ${TORCH_ROOT} is ${TORCH_VERSION}; expected ${STEPWARD_TORCH_MIN} up to, not including, "
                      "${STEPWARD_TORCH_BELOW}.")
endif()

# Sets VARIABLE to lib/libNAME.so; a missing one is an error unless OPTIONAL is given.
function(stepward_torch_library variable name)
  set(_path ${TORCH_ROOT}/lib/lib${name}.so)
  if(EXISTS ${_path})
    set(${variable} ${_path} PARENT_SCOPE)
  elseif("OPTIONAL" IN_LIST ARGN)
    set(${variable} "" PARENT_SCOPE)
  else()
    message(FATAL_ERROR "libtorch in ${TORCH_ROOT} has no lib/lib${name}.so.")
  endif()
endfunction()

stepward_torch_library(TORCH_C10 c10)
stepward_torch_library(TORCH_CPU torch_cpu)
stepward_torch_library(TORCH_STUB torch)
stepward_torch_library(TORCH_C10_CUDA c10_cuda OPTIONAL)
stepward_torch_library(TORCH_CUDA torch_cuda OPTIONAL)

# Our OpenMP code must share the runtime that libtorch loads, or two thread pools fight for the cores.
find_package(OpenMP REQUIRED COMPONENTS CXX)

add_library(stepward_torch INTERFACE)
add_library(stepward::torch ALIAS stepward_torch)
target_include_directories(stepward_torch SYSTEM INTERFACE ${TORCH_ROOT}/include
                                                           ${TORCH_ROOT}/include/torch/csrc/api/include)
target_compile_definitions(stepward_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
target_link_libraries(stepward_torch INTERFACE ${TORCH_STUB} ${TORCH_CPU} ${TORCH_C10})
add_library(stepward_openmp INTERFACE)
target_compile_options(stepward_openmp INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${OpenMP_CXX_FLAGS}>)
file(GLOB _gomp ${TORCH_ROOT}/lib/libgomp*.so*)
if(_gomp)
  list(GET _gomp 0 _gomp)
  target_link_libraries(stepward_openmp INTERFACE ${_gomp})
else()
  target_link_libraries(stepward_openmp INTERFACE ${OpenMP_CXX_LIBRARIES})
endif()
target_link_libraries(stepward_torch INTERFACE stepward_openmp)
# Registers the CUDA backend: nothing refers to a symbol of torch_cuda, so the linker would drop it.
if(TORCH_CUDA)
  target_link_libraries(stepward_torch INTERFACE "-Wl,--no-as-needed" ${TORCH_CUDA} ${TORCH_C10_CUDA} "-Wl,--as-needed")
endif()

message(STATUS "libtorch ${TORCH_VERSION} in ${TORCH_ROOT}")
