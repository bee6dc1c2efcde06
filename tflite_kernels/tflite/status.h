// A result that is fine, or says what is wrong.
#ifndef KERASQ_TFLITE_STATUS_H_
#define KERASQ_TFLITE_STATUS_H_

#include <sstream>
#include <string>
#include <utility>

namespace kerasq {

class [[nodiscard]] Status {
 public:
  static Status Ok() { return Status(); }
  template <typename... Parts>
  static Status Error(const Parts&... parts) {
    std::ostringstream text;
    (text << ... << parts);
    return Status(text.str());
  }

  bool ok() const { return ok_; }
  const std::string& message() const { return message_; }

 private:
  Status() = default;
  explicit Status(std::string message) : ok_(false), message_(std::move(message)) {}

  bool ok_ = true;
  std::string message_;
};

}  // namespace kerasq

// Return an error made of the remaining arguments unless `condition` holds.
#define KERASQ_ENSURE(condition, ...)                              \
  do {                                                             \
    if (!(condition)) return ::kerasq::Status::Error(__VA_ARGS__); \
  } while (false)

#define KERASQ_RETURN_IF_ERROR(expression)         \
  do {                                             \
    ::kerasq::Status kerasq_status = (expression); \
    if (!kerasq_status.ok()) return kerasq_status; \
  } while (false)

#endif  // KERASQ_TFLITE_STATUS_H_
